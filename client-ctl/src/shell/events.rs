//! What the log tells: changes of membership at INFO, decisions at DEBUG. Never a key: events hold none.

use crate::core::Event;

pub(super) fn log(event: &Event) {
    match event {
        Event::Registered { client, registration } => {
            tracing::info!(client = client.0, registration, "registered");
        }
        Event::RegistrationFailed { is_final } => tracing::warn!(is_final, "registration failed"),
        Event::Unanswered { refused: true } => tracing::warn!(
            "the key server refuses the handshake: this registration is worth nothing any more, or the site certificate names none \
             of its Noise keys"
        ),
        Event::Unanswered { refused: false } => tracing::warn!("no answer from the key server"),
        Event::Joined { group, term, epoch } => tracing::info!(group, term, epoch, "joined"),
        Event::Left { group, epoch } => tracing::info!(group, epoch, "left"),
        Event::Evicted { group, denial } => tracing::warn!(group, %denial, "evicted"),
        Event::Denied { group, denial } => tracing::warn!(group, %denial, "denied"),
        Event::BadReply { group, why } => tracing::warn!(group, why, "a reply was not believed"),
        Event::Conflict { group, what } => {
            tracing::error!(group, what, "two signed statements contradict each other");
        }
        Event::Installed { group, term, epoch, recovered, how } => {
            tracing::debug!(group, term, epoch, recovered, ?how, "new key");
        }
        Event::Waiting { group, wait_ms, why } => {
            tracing::debug!(group, wait_ms, why, "will ask to re-synchronize");
        }
        Event::Resynced { group, term, epoch } => {
            tracing::debug!(group, term, epoch, "re-synchronized")
        }
        Event::Unusable { group, why } => {
            tracing::debug!(group, why, "a rekey message gave no next key")
        }
        Event::PagesUnusable { group, why } => {
            tracing::debug!(group, why, "the published pages were no help; the key server is asked");
        }
        Event::StreamEnded { pause } => tracing::info!(?pause, "the key server pushes no more; it is asked again"),
        Event::Dropped { cause } => tracing::debug!(cause, "dropped"),
        Event::Applied { group, consumer, epoch } => {
            tracing::debug!(group, consumer, epoch, "a data processor uses this key");
        }
    }
}
