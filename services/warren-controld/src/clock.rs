//! The one place of this service that reads clocks, and how its tasks learn that their time is over.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use warren_crypto::UnixTime;

/// Wall time. Before 1970 counts as 1970.
pub(crate) fn wall() -> UnixTime {
    UnixTime::from_duration(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// For delays.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns when `shutdown` has turned true, or nobody is left who could turn it. Dropping the future loses nothing.
pub(crate) async fn told(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}
