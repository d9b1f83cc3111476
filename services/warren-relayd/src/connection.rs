//! One client's connection: a reader and a writer that do not wait for each other.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use warren_relay::server::{ConnId, Progress};

use crate::admission::Verdict;
use crate::relay::{Inner, Line};

/// A client that takes not one byte for so long is cut off: it must read all the time.
const WRITE_PATIENCE: Duration = Duration::from_secs(2);
/// The owner of the admission list answers within this or the client is refused.
const ADMISSION_PATIENCE: Duration = Duration::from_secs(5);
/// Frames that leave in one write.
const BATCH_BYTES: usize = 32 * 1024;
/// Read buffers grow while they are filled whole, so that ten thousand idle clients hold little.
const SMALLEST_READ: usize = 2 * 1024;
const LARGEST_READ: usize = 32 * 1024;

/// Serves one upgraded stream until it ends. Dropping it ends the connection.
pub(crate) async fn attend(inner: Arc<Inner>, source: IpAddr, stream: impl AsyncRead + AsyncWrite) {
    let (id, line) = inner.enter(source.to_canonical());
    let here = Here { inner, id };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let ended = tokio::select! {
        ended = read(&here, &mut reader) => ended,
        ended = write(&here, &line, &mut writer) => ended,
        () = line.closed.cancelled() => Ok(()),
        () = here.inner.stop.cancelled() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::debug!(conn = id.0, %error, "relay connection lost");
    }
    // A word of farewell to TLS; whoever does not take it is not waited for.
    let _ = timeout(WRITE_PATIENCE, writer.shutdown()).await;
}

/// Leaves when dropped, however that comes about.
struct Here {
    inner: Arc<Inner>,
    id: ConnId,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.inner.leave(self.id);
    }
}

async fn read(here: &Here, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; SMALLEST_READ];
    loop {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let (mut progress, request) = here.inner.receive(here.id, &buffer[..count]);
        // While somebody decides on the login, nothing is read.
        if let Some(request) = request {
            let asked = timeout(ADMISSION_PATIENCE, (here.inner.admission)(request.key, request.source)).await;
            let is_admitted = asked.is_ok_and(|verdict| verdict == Verdict::Admitted);
            if !is_admitted {
                tracing::info!(peer = %request.key.short(), "key not admitted to the relay");
            }
            progress = here.inner.admit(here.id, is_admitted);
        }
        while progress == Progress::Crowded {
            // A turn for the writers, not a wait for them.
            tokio::task::yield_now().await;
            progress = here.inner.receive_rest(here.id);
        }
        if count == buffer.len() && count < LARGEST_READ {
            buffer.resize(count * 2, 0);
        }
    }
}

async fn write(here: &Here, line: &Line, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    loop {
        line.ready.notified().await;
        let mut batch = Vec::new();
        loop {
            batch.clear();
            here.inner.take_frames(here.id, &mut batch, BATCH_BYTES);
            if batch.is_empty() {
                break;
            }
            write_batch(writer, &batch).await?;
        }
        timeout(WRITE_PATIENCE, writer.flush()).await??;
    }
}

async fn write_batch(writer: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match timeout(WRITE_PATIENCE, writer.write(bytes)).await?? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}
