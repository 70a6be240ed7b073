//! What came of it all: how many of each kind of answer, how long they took, and what went wrong.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

/// A figure's three leading digits are right.
const DIGITS: u8 = 3;

/// What an answer was, or a step of a visit came to: `accepted`, `sold out`, …
pub type Kind = &'static str;

/// Counts and latencies, shared by everybody who asks. One lock: it is held for fifty nanoseconds.
pub struct Tally {
    book: Mutex<Book>,
}

struct Book {
    began: Instant,
    kinds: BTreeMap<Kind, Histogram<u64>>,
    errors: BTreeMap<String, u64>,
}

/// One kind's figures; latencies in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// How many.
    pub count: u64,
    /// How many a second, from the beginning of the load to its end.
    pub rate: f64,
    /// Half took no longer.
    pub p50: f64,
    /// Nine of ten took no longer.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Default for Tally {
    fn default() -> Self {
        let book = Book { began: Instant::now(), kinds: BTreeMap::new(), errors: BTreeMap::new() };
        Self { book: Mutex::new(book) }
    }
}

impl Tally {
    /// This came of something that began, or should have, at `since`.
    pub fn note(&self, kind: Kind, since: Instant) {
        self.note_took(kind, since.elapsed());
    }

    /// The same, for whoever has measured.
    pub fn note_took(&self, kind: Kind, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let fresh = || Histogram::new(DIGITS).expect("three digits are a precision that there is");
        self.locked().kinds.entry(kind).or_insert_with(fresh).saturating_record(micros);
    }

    /// Something went wrong, in few words.
    pub fn wrong(&self, what: impl Into<String>) {
        *self.locked().errors.entry(what.into()).or_default() += 1;
    }

    /// How many of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.locked().kinds.get(kind).map_or(0, Histogram::len)
    }

    /// How often what went wrong.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.locked().errors.clone()
    }

    /// Every kind that came, with rates over so long.
    #[must_use]
    pub fn figures(&self, over: Duration) -> BTreeMap<Kind, Figures> {
        let book = self.locked();
        book.kinds.iter().map(|(kind, histogram)| (*kind, figures(histogram, over))).collect()
    }

    /// How long it has been going on.
    #[must_use]
    pub fn since(&self) -> Duration {
        self.locked().began.elapsed()
    }

    fn locked(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics under this lock")
    }
}

fn figures(histogram: &Histogram<u64>, over: Duration) -> Figures {
    let millis = |micros: u64| micros as f64 / 1_000.0;
    let at = |quantile| millis(histogram.value_at_quantile(quantile));
    Figures {
        count: histogram.len(),
        rate: histogram.len() as f64 / over.as_secs_f64().max(f64::EPSILON),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: millis(histogram.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_what_was_noted() {
        let tally = Tally::default();
        for millis in 1..=1_000 {
            tally.note_took("accepted", Duration::from_millis(millis));
        }
        tally.wrong("timed out");
        tally.wrong("timed out");
        let figures = tally.figures(Duration::from_secs(10));
        let accepted = &figures["accepted"];
        let near = |is: f64, wanted: f64| (is / wanted - 1.0).abs() < 0.002;
        assert_eq!((accepted.count, tally.count("sold out")), (1_000, 0));
        assert!(near(accepted.rate, 100.0) && near(accepted.p50, 500.0) && near(accepted.p90, 900.0), "{accepted:?}");
        assert!(near(accepted.p99, 990.0) && near(accepted.p999, 999.0) && near(accepted.max, 1_000.0), "{accepted:?}");
        assert_eq!(tally.errors(), BTreeMap::from([("timed out".to_owned(), 2)]));
    }
}
