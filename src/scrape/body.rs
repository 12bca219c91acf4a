//! Reads and decompresses one body within its limits.

use std::io::Read as _;
use std::time::Duration;

use super::client::{TargetResponse, io_text};
use super::content::MAX_START_BYTES;
use exposition::Pool;

use super::ScrapeError;
use super::memory_budget::{Charge, OverBudget};
use super::work::Cancel;
use flate2::bufread::MultiGzDecoder;

/// How long to wait for the start of the body of a failed response.
const START_TIME: Duration = Duration::from_millis(500);

/// The capacity of the first buffer of a body whose length is unknown.
const INITIAL_BYTES: u64 = 16 << 10;

/// A body may arrive in this many pieces of any size.
const MAX_SMALL_PIECES: u64 = 1 << 16;

/// Beyond [`MAX_SMALL_PIECES`], pieces must have this many bytes on average. Exporters that write line by line have
/// more; a target that sends a byte at a time would cost a CPU for as long as the scrape lasts.
const MIN_PIECE_BYTES: u64 = 8;

/// The most bytes that are decompressed before the account and the deadline are looked at again.
const INFLATE_STEP_BYTES: u64 = 64 << 10;

impl From<OverBudget> for ScrapeError {
    fn from(over: OverBudget) -> Self {
        Self::MemoryBudget {
            limit_bytes: over.limit_bytes,
        }
    }
}

/// Reads a whole body as it arrives, without decompressing it.
///
/// Frames are copied into one buffer, because a frame that is kept also keeps the connection's read buffer, which has
/// up to four times its size.
pub(super) async fn read(
    response: &mut TargetResponse<'_>,
    limit_bytes: u64,
    pool: &Pool,
    charge: &Charge,
) -> Result<Vec<u8>, ScrapeError> {
    let announced = response.content_length();
    if announced.is_some_and(|bytes| bytes > limit_bytes) {
        return Err(ScrapeError::TooLarge { limit_bytes });
    }
    // An announced length is charged at once: where not all bodies fit, the largest is refused whether it arrives first or
    // last.
    let mut charged_bytes = announced.unwrap_or(0);
    charge.grow(charged_bytes)?;
    let mut buffer = pool.acquire(usize::try_from(announced.unwrap_or(INITIAL_BYTES)).unwrap_or(usize::MAX));
    let mut pieces = 0;
    while let Some(data) = response.chunk().await {
        let read_bytes = buffer.len() as u64;
        let data = data.map_err(|error| body_error(read_bytes, &error))?;
        pieces += 1;
        if pieces > MAX_SMALL_PIECES && read_bytes < pieces * MIN_PIECE_BYTES {
            return Err(ScrapeError::Fragmented { pieces, read_bytes });
        }
        let all = read_bytes + data.len() as u64;
        if all > limit_bytes {
            return Err(ScrapeError::TooLarge { limit_bytes });
        }
        charge.grow(all.saturating_sub(charged_bytes))?;
        charged_bytes = charged_bytes.max(all);
        if buffer.capacity() - buffer.len() < data.len() {
            let mut larger = pool.acquire((buffer.len() + data.len()).max(buffer.capacity() * 2));
            larger.extend_from_slice(&buffer);
            pool.release(std::mem::replace(&mut buffer, larger));
        }
        buffer.extend_from_slice(&data);
    }
    Ok(buffer)
}

fn body_error(read_bytes: u64, error: &hyper::Error) -> ScrapeError {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    let reason = match io {
        Some(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => String::new(),
        Some(io) => io_text(io),
        None if error.is_incomplete_message() => String::new(),
        None => error.to_string(),
    };
    ScrapeError::Body { read_bytes, reason }
}

/// Reads the start of the body of a failed response, for display. It takes what arrives within a moment.
pub(super) async fn read_start(response: &mut TargetResponse<'_>) -> Vec<u8> {
    let mut start = Vec::new();
    let reading = async {
        while start.len() < MAX_START_BYTES
            && let Some(Ok(data)) = response.chunk().await
        {
            start.extend_from_slice(&data);
        }
    };
    let _ = tokio::time::timeout(START_TIME, reading).await;
    start.truncate(MAX_START_BYTES);
    start
}

/// Decompresses a gzip body with all of its members, and refuses it as soon as it is too large.
///
/// A truncated stream, bytes after the last member, and an empty body are errors, as they are in Prometheus. The bytes
/// are charged while they are made, since a target can announce any length and reach a thousandfold.
///
/// `grow` charges them. A failure comes with the number of bytes that were charged.
pub(super) fn gunzip(
    compressed: &[u8],
    limit_bytes: u64,
    pool: &Pool,
    grow: &dyn Fn(u64) -> Result<(), OverBudget>,
    cancel: &Cancel,
) -> Result<Vec<u8>, (u64, ScrapeError)> {
    // Expositions are compressed to about a tenth. The length in the gzip trailer is not used: a target can write any
    // number there.
    let guess = compressed
        .len()
        .saturating_mul(10)
        .min(usize::try_from(limit_bytes).unwrap_or(usize::MAX));
    let mut body = pool.acquire(guess);
    match gunzip_into(&mut body, compressed, limit_bytes, grow, cancel) {
        Ok(()) => Ok(body),
        Err(error) => {
            let charged = body.len() as u64;
            pool.release(body);
            Err((charged, error))
        }
    }
}

fn gunzip_into(
    body: &mut Vec<u8>,
    compressed: &[u8],
    limit_bytes: u64,
    grow: &dyn Fn(u64) -> Result<(), OverBudget>,
    cancel: &Cancel,
) -> Result<(), ScrapeError> {
    let mut decoder = MultiGzDecoder::new(compressed);
    loop {
        if cancel.is_cancelled() {
            // Nobody reads this error.
            return Err(ScrapeError::Lost);
        }
        let before = body.len();
        let step = INFLATE_STEP_BYTES.min(limit_bytes.saturating_add(1) - before as u64);
        let read = (&mut decoder).take(step).read_to_end(body);
        let made = (body.len() - before) as u64;
        grow(made)?;
        read.map_err(ScrapeError::Gzip)?;
        if body.len() as u64 > limit_bytes {
            return Err(ScrapeError::TooLarge { limit_bytes });
        }
        if made == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::super::MemoryBudget;
    use super::super::work::CancelOnDrop;
    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn decompress(compressed: Vec<u8>, limit: u64) -> Result<Vec<u8>, ScrapeError> {
        let charge = MemoryBudget::new(1 << 30).open(&std::sync::Arc::default());
        let grow = |bytes| charge.grow(bytes);
        gunzip(&compressed, limit, &Pool::default(), &grow, &Cancel::default()).map_err(|(_, error)| error)
    }

    #[test]
    fn several_members_are_one_body() {
        let body = [gzip(b"a 1\n"), gzip(b"b 2\n")].concat();
        assert_eq!(decompress(body, 100).unwrap(), b"a 1\nb 2\n");
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let body = gzip(&vec![b'a'; 1 << 20]);
        assert!(body.len() < 100_000);
        assert!(matches!(
            decompress(body.clone(), 1000),
            Err(ScrapeError::TooLarge { limit_bytes: 1000 })
        ));
        assert_eq!(decompress(body, 1 << 20).unwrap().len(), 1 << 20);
    }

    #[test]
    fn decompressed_bytes_are_charged_and_given_back() {
        let body = gzip(&vec![b'a'; 1 << 20]);
        let budget = MemoryBudget::new(200_000);
        let charge = budget.open(&std::sync::Arc::default());
        let (pool, cancel) = (Pool::default(), Cancel::default());
        let grow = |bytes| charge.grow(bytes);
        let (charged, error) = gunzip(&body, 1 << 20, &pool, &grow, &cancel).unwrap_err();
        assert!(matches!(
            error,
            ScrapeError::MemoryBudget { limit_bytes: 200_000 }
        ));
        assert_eq!(budget.used_bytes(), charged);
        assert!(charged < 300_000, "{charged}");
        let guard = CancelOnDrop::default();
        let cancel = guard.flag();
        drop(guard);
        let (_, error) = gunzip(&body, 1 << 20, &pool, &|_| Ok(()), &cancel).unwrap_err();
        assert!(matches!(error, ScrapeError::Lost));
    }

    #[test]
    fn what_prometheus_refuses_as_gzip_is_refused() {
        let good = gzip(b"a 1\n");
        let cases: [(&str, Vec<u8>); 5] = [
            ("cut", good[..good.len() - 3].to_vec()),
            ("garbage", b"a 1\n".to_vec()),
            ("bytes behind", [good.as_slice(), b"x"].concat()),
            ("zeros behind", [good.as_slice(), &[0; 512]].concat()),
            ("empty", Vec::new()),
        ];
        for (name, body) in cases {
            assert!(
                matches!(decompress(body, 1000), Err(ScrapeError::Gzip(_))),
                "{name}"
            );
        }
    }
}
