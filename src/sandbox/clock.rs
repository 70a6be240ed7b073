//! The sandbox's own clock. It is not the shop's: a bank and its customer never agree on the time.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use tokio::sync::Notify;

/// The machine's clock plus whatever a test has added.
#[derive(Default)]
pub(super) struct Clock {
    lead_ms: AtomicI64,
    moved: Notify,
}

impl Clock {
    pub(super) fn now(&self) -> DateTime<Utc> {
        #[expect(clippy::disallowed_methods, reason = "the one place of the sandbox that reads the machine's clock")]
        let machine = Utc::now();
        machine + TimeDelta::milliseconds(self.lead_ms.load(Ordering::Relaxed))
    }

    /// Moves time, and wakes whoever waits for it.
    pub(super) fn advance(&self, by_ms: i64) {
        self.lead_ms.fetch_add(by_ms, Ordering::Relaxed);
        self.moved.notify_waiters();
    }

    /// Returns at `due`, or when the clock is moved: the caller looks again. Without `due`, only when it is moved.
    pub(super) async fn until(&self, due: Option<DateTime<Utc>>) {
        let moved = self.moved.notified();
        let Some(due) = due else { return moved.await };
        let pause = (due - self.now()).to_std().unwrap_or(Duration::ZERO);
        tokio::select! {
            () = moved => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A time as PayPal's resources write it: `2026-11-22T10:11:12Z`.
pub(super) fn stamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A time as PayPal's events write it: `2026-11-22T10:11:12.345Z`.
pub(super) fn stamp_ms(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
