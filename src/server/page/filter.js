// Filters the rows while a person types. Without it the form asks the server, which filters all pages.
const q=document.querySelector('#q'),rows=[...document.querySelectorAll('tbody tr')],n=document.querySelector('#n'),one=document.body.dataset.pages==='1';
function show(){const words=q.value.toLowerCase().split(/\s+/);let shown=0;for(const r of rows){const text=r.textContent.toLowerCase();r.hidden=!words.every(w=>text.includes(w));shown+=!r.hidden}n.textContent=shown+' shown'}
let timer;q.addEventListener('input',()=>{if(one&&!q.defaultValue)show();else{clearTimeout(timer);timer=setTimeout(()=>q.form.submit(),500)}});
