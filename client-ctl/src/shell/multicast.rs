//! Receives the datagrams of one multicast address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net::multicast::Receiver;
use protocol::unit::MAX_DATAGRAM;
use tokio::sync::mpsc;

use super::Happened;
use crate::config::Settings;

/// Pause before a socket that failed is opened again: an interface may come back.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the count of datagrams that were dropped on purpose is read while none arrives.
const COUNT: Duration = Duration::from_millis(200);

/// Until it is aborted. `lost` counts the datagrams that were dropped on purpose.
pub(super) async fn receive(
    settings: Arc<Settings>,
    destination: SocketAddr,
    lost: Arc<AtomicU64>,
    happens: mpsc::Sender<Happened>,
) {
    let mut lost_before = 0;
    loop {
        let opened = Receiver::open(destination, &settings.multicast)
            .and_then(|receiver| receiver.with_impairment(settings.impairment));
        match opened {
            Ok(mut receiver) => {
                tracing::debug!(%destination, "receiving");
                if let Err(error) = forward(&mut receiver, lost_before, &lost, &happens).await {
                    tracing::warn!(%destination, %error, "cannot receive");
                }
                lost_before = lost.load(Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "cannot receive"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn forward(
    receiver: &mut Receiver,
    lost_before: u64,
    lost: &AtomicU64,
    happens: &mpsc::Sender<Happened>,
) -> std::io::Result<()> {
    // One octet more than any datagram of ours, so that a longer one is not taken for one of ours.
    let mut buf = [0; MAX_DATAGRAM + 1];
    loop {
        let received = tokio::time::timeout(COUNT, receiver.recv(&mut buf)).await;
        lost.store(lost_before + receiver.dropped(), Ordering::Relaxed);
        let Ok(received) = received else { continue };
        let (length, from) = received?;
        tracing::trace!(length, %from, "datagram");
        let datagram = buf.get(..length).unwrap_or_default().to_vec();
        if happens.send(Happened::Datagram(datagram)).await.is_err() {
            return Ok(());
        }
    }
}
