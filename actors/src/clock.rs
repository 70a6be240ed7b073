//! One clock. No statement of the engine says `now()`: time is a parameter, read here, and a test can move it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;

/// The engine's time: the machine's clock plus an offset, which is the database's lead over the machine (so that two
/// machines on one database agree) and whatever a test has added.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    offset_micros: AtomicI64,
    /// Where it stands still; zero while time passes.
    still_micros: AtomicI64,
    moved: Notify,
}

impl Clock {
    /// The time now, to the microsecond that Postgres keeps.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let still = self.0.still_micros.load(Ordering::Relaxed);
        if still != 0 {
            return DateTime::from_timestamp_micros(still).unwrap_or_default();
        }
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
        let machine = Utc::now().timestamp_micros();
        let micros = machine.saturating_add(self.0.offset_micros.load(Ordering::Relaxed));
        DateTime::from_timestamp_micros(micros).unwrap_or_default()
    }

    /// Agrees with a database that says it is `then` right now.
    pub fn calibrate(&self, then: DateTime<Utc>) {
        let lead = then - self.now();
        self.advance(lead);
    }

    /// Moves time, and wakes whoever waits for it. For tests and for development.
    pub fn advance(&self, by: TimeDelta) {
        let micros = by.num_microseconds().unwrap_or(0);
        let stands = self.0.still_micros.load(Ordering::Relaxed) != 0;
        let moved = if stands { &self.0.still_micros } else { &self.0.offset_micros };
        moved.fetch_add(micros, Ordering::Relaxed);
        self.0.moved.notify_waiters();
    }

    /// Stands still at a moment: from here on it moves by [`Clock::advance`] alone. For tests of what happens at that very
    /// moment.
    pub fn stand_still(&self, then: DateTime<Utc>) {
        self.0.still_micros.store(then.timestamp_micros(), Ordering::Relaxed);
        self.0.moved.notify_waiters();
    }

    /// Returns after `pace` of real time, or at once when the clock is moved: the beat of whoever looks for due work.
    pub async fn beat(&self, pace: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pace) => {}
            () = self.0.moved.notified() => {}
        }
    }
}
