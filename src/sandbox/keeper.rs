//! The keeper does what falls due by the clock alone: authorizations that nobody has captured expire.

use chrono::TimeDelta;

use super::{authorizations, bank::Shared, books::Books};

/// How long the keeper sleeps at most; what was authorized meanwhile falls due much later.
const ROUND: TimeDelta = TimeDelta::hours(1);

/// Keeps house until the sandbox stops.
pub(super) async fn run(bank: Shared) {
    loop {
        let expire = |books: &Books, now| Ok(((), authorizations::expire(books, &bank.base, now)));
        if bank.transact(expire).await.is_err() {
            return; // the journal is closed, and says so to everybody
        }
        let next = bank.look(authorizations::next_expiry);
        let round = bank.clock.now() + ROUND;
        tokio::select! {
            () = bank.clock.until(Some(next.map_or(round, |next| next.min(round)))) => {}
            () = bank.stopped() => return,
        }
    }
}
