//! A web server on loopback that serves fixed pages, and records the headers of the requests for them.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// Content-Type and body, by path.
pub(super) type Pages = HashMap<String, (&'static str, String)>;

/// The headers of one request, by name in lower case.
pub(super) type Headers = HashMap<String, String>;

/// Serves pages until the process of the test ends.
#[derive(Debug)]
pub(super) struct PageServer {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pages: Pages,
    /// The headers of the last request, by path.
    requests: Mutex<HashMap<String, Headers>>,
}

impl PageServer {
    pub(super) fn start(pages: Pages) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            pages,
            requests: Mutex::default(),
        });
        let server = Self {
            address,
            shared: Arc::clone(&shared),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve_connection(stream, &shared));
            }
        });
        server
    }

    /// The headers of the last request for a page.
    pub(super) fn request(&self, path: &str) -> Option<Headers> {
        let requests = self.shared.requests.lock();
        requests
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
            .cloned()
    }
}

/// Serves the requests of one connection; a client that disconnects ends it.
fn serve_connection(mut stream: TcpStream, shared: &Shared) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).ok()? == 0 {
            return None;
        }
        let mut headers = Headers::new();
        let mut line = String::new();
        while reader.read_line(&mut line).ok()? > 2 {
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            line.clear();
        }
        let path = request.split(' ').nth(1)?;
        let requests = shared.requests.lock();
        let mut requests = requests.unwrap_or_else(PoisonError::into_inner);
        requests.insert(path.to_owned(), headers);
        drop(requests);
        let (content_type, body) = shared.pages.get(path)?;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
    }
}
