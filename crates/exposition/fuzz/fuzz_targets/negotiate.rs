//! Any headers give a response whose own headers are well-formed.

#![no_main]

use exposition::negotiate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut headers = text.split('\n').map(Some);
    let format = negotiate(
        headers.next().flatten(),
        headers.next().flatten(),
        headers.next().flatten(),
    );
    assert!(format.content_type().is_ascii());
    assert!(format.target_accept().is_ascii());
    // What we ask of targets is understood by ourselves.
    let again = negotiate(Some(&format.target_accept()), None, None);
    assert_eq!(again.format(), format.format());
});
