//! The page `/targets` in Debian's Chromium: no horizontal scrolling, filters, light and dark.

use std::path::PathBuf;
use std::process::Command;

use crate::support::app::App;
use crate::support::kube::NewPod;
use crate::support::pod::{self, Answer, Pod};
use crate::support::process;
use crate::support::tools::{self, Missing};

/// Chromium as Debian installs it.
fn chromium() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .map(|folder| folder.join("chromium"))
        .find(|program| program.is_file())
}

/// Opens a page in a frame of this width and returns what `script` computes there, as text. In the script `frame` is the
/// page's window.
fn in_browser(browser: &PathBuf, page: &str, width: u32, is_dark: bool, script: &str) -> String {
    let dir = process::fresh_dir();
    let inner = serde_json::to_string(page)
        .expect("a page is text")
        .replace("</", "<\\/");
    let outer = format!(
        "<!doctype html><body><iframe id=f width={width} height=800></iframe><pre id=out></pre><script>\
         const f=document.querySelector('#f');f.onload=()=>{{const frame=f.contentWindow;\
         document.querySelector('#out').textContent='RESULT('+({script})+')END'}};f.srcdoc={inner}</script>"
    );
    let file = dir.path().join("page.html");
    std::fs::write(&file, outer).expect("a fresh folder can be written");
    let mut command = Command::new(browser);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args(["--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!(
            "--user-data-dir={}",
            dir.path().join("profile").display()
        ))
        .arg(format!(
            "--blink-settings=preferredColorScheme={}",
            u8::from(!is_dark)
        ))
        .arg(&file);
    let output = command.output().expect("Chromium runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let result = text
        .split_once("RESULT(")
        .filter(|_| output.status.success())
        .and_then(|(_, rest)| rest.split_once(")END"))
        .map(|(result, _)| result.to_owned());
    result.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// A page with pods that are up, down and skipped.
async fn page(n_pods: usize) -> String {
    let up = Pod::serving("# TYPE jobs counter\njobs 1\n").await;
    let html = Pod::start(Answer::html()).await;
    let mut pods = vec![
        NewPod::scraped("web-up", up.address),
        NewPod::scraped(&format!("web-down-{}", "long-name-".repeat(5)), html.address),
        NewPod::new("web-skipped").ip(&pod::address().to_string()),
    ];
    for n in pods.len()..n_pods {
        pods.push(NewPod::new(&format!("quiet-{n}")).ip("10.255.0.1"));
    }
    let app = App::with_pods(&pods, &[]).await;
    app.metrics().await;
    let response = app.get("/targets", &[("Accept-Encoding", "gzip")]).await;
    assert_eq!(response.header("content-encoding"), "gzip");
    assert!(response.body.len() < 200_000, "{}", response.body.len());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&response.body[..]), &mut text)
        .expect("valid gzip");
    text
}

const SCROLLS: &str = "frame.document.documentElement.scrollWidth>frame.innerWidth";

#[tokio::test]
async fn the_page_fits_its_window_and_filters_while_a_person_types() {
    let Some(browser) = chromium() else {
        let missing = Missing::because("Chromium is not installed; apt-get install chromium");
        return tools::skipped(
            "server::page::the_page_fits_its_window_and_filters_while_a_person_types",
            &missing,
        );
    };
    let small = page(3).await;
    let large = page(2_000).await;
    for (name, page) in [("3 pods", &small), ("2,000 pods", &large)] {
        for width in [390, 1_440] {
            let scrolls = in_browser(&browser, page, width, false, SCROLLS);
            assert_eq!(scrolls, "false", "{name}, {width} pixels: horizontal scrolling");
        }
    }
    // On a phone the rows are cards.
    let display = "frame.getComputedStyle(frame.document.querySelector('tbody tr')).display";
    assert_eq!(in_browser(&browser, &small, 390, false, display), "block");
    assert_eq!(in_browser(&browser, &small, 1_440, false, display), "table-row");
    let background = "frame.getComputedStyle(frame.document.body).backgroundColor";
    assert_eq!(
        in_browser(&browser, &small, 390, false, background),
        "rgb(255, 255, 255)"
    );
    assert_eq!(
        in_browser(&browser, &small, 390, true, background),
        "rgb(22, 22, 22)"
    );
    let type_down = "(()=>{const q=frame.document.querySelector('#q');q.value='WEB-DOWN';q.dispatchEvent(new \
                     frame.Event('input'));return [...frame.document.querySelectorAll('tbody tr')].filter(r=>\
                     !r.hidden).length+' '+frame.document.querySelector('#n').textContent})()";
    assert_eq!(in_browser(&browser, &small, 1_440, false, type_down), "1 1 shown");
}
