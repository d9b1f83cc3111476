//! Waiting for a level, never for an edge.

use std::time::{Duration, Instant};

/// Asks until the answer is `Ok`, at most for `limit`; returns it with the time that it took.
///
/// # Panics
/// With the last refusal, when the limit is over.
#[track_caller]
pub fn till<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Result<T, String>) -> (T, Duration) {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return (answer, begun.elapsed()),
            Err(last) => assert!(begun.elapsed() < limit, "waited {} s for {what}; last: {last}", limit.as_secs_f32()),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks for the whole of `span`; every answer must be `Ok`.
#[track_caller]
pub fn hold(span: Duration, what: &str, mut ask: impl FnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while begun.elapsed() < span {
        if let Err(broken) = ask() {
            panic!("{what} held only {} s: {broken}", begun.elapsed().as_secs_f32());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
