//! When buyers come. In a closed loop the next one begins as soon as a connection is free: such a loop is as fast as the
//! shop and shows its best rate. In an open loop they come when they come, whether the shop keeps up or not, and a latency
//! counts from then: a shop that stalls is not flattered by buyers who politely wait (no coordinated omission).

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// How buyers come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as they are served.
    Closed,
    /// So many a second, in equal steps.
    Fixed(f64),
    /// So many a second on average, each independent of the others.
    Poisson(f64),
}

/// When no more come: whichever is first; at least one is given, or somebody stops it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    /// So many buyers.
    pub buyers: Option<u64>,
    /// So long.
    pub time: Option<Duration>,
}

/// A buyer's turn.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// The buyer's number, from 0.
    pub number: u64,
    /// When the buyer comes: in an open loop it may be a while ago.
    pub due: Instant,
}

/// Hands out turns.
pub struct Schedule {
    pace: Pace,
    bounds: Bounds,
    began: Instant,
    next: Mutex<Next>,
}

struct Next {
    number: u64,
    due: Instant,
    dice: fastrand::Rng,
    over: bool,
}

impl Schedule {
    /// Begins now. The same seed brings the same arrivals.
    #[must_use]
    pub fn new(pace: Pace, bounds: Bounds, seed: u64) -> Self {
        let began = Instant::now();
        let next = Next { number: 0, due: began, dice: fastrand::Rng::with_seed(seed), over: false };
        Self { pace, bounds, began, next: Mutex::new(next) }
    }

    /// The next turn, or none: it is over.
    pub fn next(&self) -> Option<Turn> {
        let mut next = self.next.lock().expect("nothing panics under this lock");
        let now = Instant::now();
        let due = match self.pace {
            Pace::Closed => now,
            Pace::Fixed(_) | Pace::Poisson(_) => next.due,
        };
        let late = |limit| due.max(now) >= self.began + limit;
        next.over |= self.bounds.time.is_some_and(late) || self.bounds.buyers.is_some_and(|most| next.number >= most);
        if next.over {
            return None;
        }
        let turn = Turn { number: next.number, due };
        next.number += 1;
        self.advance(&mut next);
        Some(turn)
    }

    fn advance(&self, next: &mut Next) {
        next.due += match self.pace {
            Pace::Closed => Duration::ZERO,
            Pace::Fixed(rate) => Duration::from_secs_f64(1.0 / rate),
            // the time between independent arrivals
            Pace::Poisson(rate) => Duration::from_secs_f64(-(1.0 - next.dice.f64()).ln() / rate),
        };
    }

    /// No more come.
    pub fn stop(&self) {
        self.next.lock().expect("nothing panics under this lock").over = true;
    }

    /// How many have had their turn.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.next.lock().expect("nothing panics under this lock").number
    }

    /// Buyers who came in time and were never let in, because every connection was busy: the shop, or the generator, was
    /// too slow. `note` hears how long each of them had waited by the end. Ends the schedule.
    pub fn left_outside(&self, mut note: impl FnMut(Duration)) -> u64 {
        let mut next = self.next.lock().expect("nothing panics under this lock");
        next.over = true;
        if self.pace == Pace::Closed {
            return 0;
        }
        let end = self.bounds.time.map_or_else(Instant::now, |time| self.began + time).min(Instant::now());
        let mut outside = 0;
        while next.due < end && self.bounds.buyers.is_none_or(|most| next.number + outside < most) {
            outside += 1;
            note(end - next.due);
            self.advance(&mut next);
        }
        outside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_come_and_no_more() {
        let schedule = Schedule::new(Pace::Closed, Bounds { buyers: Some(3), time: None }, 1);
        let numbers: Vec<u64> = std::iter::from_fn(|| schedule.next()).map(|turn| turn.number).collect();
        assert_eq!((numbers, schedule.begun(), schedule.left_outside(drop)), (vec![0, 1, 2], 3, 0));
    }

    #[test]
    fn an_open_loop_comes_at_its_rate_whoever_keeps_up() {
        for pace in [Pace::Fixed(1_000_000.0), Pace::Poisson(1_000_000.0)] {
            let schedule = Schedule::new(pace, Bounds { buyers: Some(100_000), time: None }, 7);
            let turns: Vec<Turn> = std::iter::from_fn(|| schedule.next()).collect();
            let took = turns[99_999].due - turns[0].due;
            assert!((95..=105).contains(&took.as_millis()), "{pace:?}: {took:?}");
            assert!(turns.windows(2).all(|pair| pair[0].due <= pair[1].due));
        }
    }

    #[test]
    fn who_came_in_time_and_was_not_let_in_is_counted() {
        let schedule = Schedule::new(Pace::Fixed(1_000.0), Bounds { buyers: None, time: Some(Duration::ZERO) }, 1);
        assert!(schedule.next().is_none(), "it is late already");
        assert_eq!(schedule.left_outside(drop), 0);
        let schedule =
            Schedule::new(Pace::Fixed(1e9), Bounds { buyers: Some(50), time: Some(Duration::from_secs(9)) }, 1);
        schedule.next();
        std::thread::sleep(Duration::from_millis(1));
        schedule.stop();
        assert!(schedule.next().is_none());
        let mut waits = Vec::new();
        assert_eq!(schedule.left_outside(|wait| waits.push(wait)), 49);
        assert!(waits.iter().all(|wait| *wait > Duration::from_micros(900)) && waits.is_sorted_by(|a, b| a > b));
    }
}
