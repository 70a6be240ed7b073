//! A sale's waiting room as a value: numbers that were given, the draw, who has been called and what came of it.
//!
//! Whoever joins gets a *number*. The *place* in the line is something else: those who came before the start are given
//! theirs by a draw when the sale starts, from a seed that nobody can know before; whoever comes later stands behind them,
//! in order. Places are called from the front, as many as there are units, and what was called and not used in time lapses.
//! So where one stands is what a few numbers say, however many wait.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};

use super::{SaleId, words};

/// The room of one sale, as committed.
#[derive(Debug, Clone, Default)]
pub struct Room {
    /// Numbers below this were given, or may have been by an engine that died.
    pub given: i64,
    /// The draw, once the sale has started.
    pub draw: Option<Draw>,
    /// Places below this were called.
    pub called: i64,
    /// Calls that can still be used, the oldest first.
    pub calls: Vec<Call>,
    /// Places whose orders are placed.
    pub used: HashSet<i64>,
}

/// How those who were there before the start stand in line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    /// What it was drawn by.
    pub seed: i64,
    /// The place of each number.
    places: Arc<[i64]>,
}

impl Draw {
    /// Draws places for so many numbers: by this seed it comes out so and not otherwise, and over all seeds each order is as
    /// likely as any other (Fisher and Yates; numbers by SplitMix64).
    #[must_use]
    pub fn new(seed: i64, count: i64) -> Self {
        let mut places: Vec<i64> = (0..count).collect();
        let mut state = seed.cast_unsigned();
        for last in (1..places.len()).rev() {
            places.swap(last, below(&mut state, last as u64 + 1) as usize);
        }
        Self { seed, places: places.into() }
    }

    /// How many took part.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.places.len() as i64
    }

    fn place(&self, number: i64) -> i64 {
        usize::try_from(number).ok().and_then(|at| self.places.get(at)).copied().unwrap_or(number)
    }
}

/// A number below `bound`, each as likely: those at the end that would favour the small ones are drawn again.
fn below(state: &mut u64, bound: u64) -> u64 {
    let fair = u64::MAX - u64::MAX % bound;
    loop {
        let number = split_mix(state);
        if number < fair {
            return number % bound;
        }
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How waiting rooms are kept.
#[derive(Debug, Clone, Copy)]
pub struct RoomRules {
    /// How long whoever is called has to buy.
    pub admission: TimeDelta,
    /// How many may wait in one room.
    pub most: i64,
}

/// Some places that were called together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub places: Range<i64>,
    /// From then on it cannot be used.
    pub until: DateTime<Utc>,
}

/// Where somebody stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineState {
    /// The sale has not started: places are drawn when it does.
    BeforeTheDraw,
    /// So many are called first.
    Waiting {
        /// How many.
        ahead: i64,
    },
    /// May buy until then.
    Admitted {
        /// Then.
        until: DateTime<Utc>,
    },
    /// Has bought.
    Used,
    /// Was called, and did not buy in time.
    Lapsed,
}

words! {
    /// Why a ticket does not let its holder buy.
    TicketFault {
        /// There is none, and the sale has a waiting room.
        Required = "ticket_required",
        /// It is not one of this shop, this sale and this session.
        Invalid = "ticket_invalid",
        /// Its turn has not come.
        NotAdmitted = "not_admitted",
        /// An order was placed with it.
        Used = "ticket_used",
        /// Its turn is over.
        Expired = "ticket_expired",
    }
}

/// A number in a sale's waiting room, as a ticket of this shop has proved it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Whose room.
    pub sale_id: SaleId,
    /// Which number.
    pub number: i64,
}

impl Room {
    /// Where a number stands.
    #[must_use]
    pub fn standing(&self, number: i64) -> LineState {
        let Some(place) = self.place(number) else { return LineState::BeforeTheDraw };
        if place >= self.called {
            return LineState::Waiting { ahead: place - self.called };
        }
        if self.used.contains(&place) {
            return LineState::Used;
        }
        self.call_of(place).map_or(LineState::Lapsed, |call| LineState::Admitted { until: call.until })
    }

    /// The call that a place can still use. Calls are in order of their places.
    fn call_of(&self, place: i64) -> Option<&Call> {
        let at = self.calls.partition_point(|call| call.places.end <= place);
        self.calls.get(at).filter(|call| call.places.contains(&place))
    }

    /// A number's place in the line, once there is one.
    #[must_use]
    pub fn place(&self, number: i64) -> Option<i64> {
        Some(self.draw.as_ref()?.place(number))
    }

    /// Who is called next where there are `units` for which nobody is on the way.
    #[must_use]
    pub fn next_call(&self, units: i64, until: DateTime<Utc>) -> Option<Call> {
        self.draw.as_ref()?;
        let last = self.given.min(self.called + units);
        (last > self.called).then_some(Call { places: self.called..last, until })
    }

    /// How many have been called, can still buy and have not; and of those who are buying, whose time has gone by meanwhile.
    ///
    /// There are never more of them than there are units, so this is taken before the stock is looked at: who buys in
    /// between is then counted twice rather than not at all.
    #[must_use]
    pub fn on_their_way(&self, buying: &HashSet<i64>) -> i64 {
        let called: i64 = self.calls.iter().map(|call| call.places.end - call.places.start).sum();
        let bought = self.used.iter().filter(|place| self.call_of(**place).is_some());
        let late = buying.iter().filter(|place| self.call_of(**place).is_none());
        called - bought.count() as i64 + late.count() as i64
    }

    /// Calls whose time is over are forgotten.
    pub fn lapse(&mut self, now: DateTime<Utc>) {
        self.calls.retain(|call| now < call.until);
    }

    /// How long until so many are called, by the pace since the start; none while nobody has been.
    #[must_use]
    pub fn wait(&self, ahead: i64, since_start: TimeDelta) -> Option<TimeDelta> {
        let seconds = since_start.num_seconds().max(1);
        (self.called > 0).then(|| TimeDelta::seconds((ahead + 1).saturating_mul(seconds) / self.called))
    }
}

/// Who has which number: a session that comes again, in however many tabs, has the one it had.
#[derive(Debug, Default)]
pub struct Sessions(HashMap<[u8; 16], i64>);

impl Sessions {
    /// The number that a session has.
    #[must_use]
    pub fn number(&self, session: [u8; 16]) -> Option<i64> {
        self.0.get(&session).copied()
    }

    /// Gives it one.
    pub fn give(&mut self, session: [u8; 16], number: i64) {
        self.0.insert(session, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("in range")
    }

    fn drawn(given: i64) -> Room {
        Room { given, draw: Some(Draw::new(7, given)), ..Room::default() }
    }

    #[test]
    fn a_draw_gives_every_number_a_place_of_its_own_and_the_same_again() {
        let draw = Draw::new(42, 1_000);
        let mut places: Vec<i64> = (0..1_000).map(|number| draw.place(number)).collect();
        assert_ne!(places, (0..1_000).collect::<Vec<_>>());
        places.sort_unstable();
        assert_eq!(places, (0..1_000).collect::<Vec<_>>());
        assert_eq!(draw, Draw::new(42, 1_000));
        assert_eq!(draw.place(1_000), 1_000, "whoever comes later stands behind");
        assert_eq!((Draw::new(1, 0).count(), Draw::new(1, 1).place(0)), (0, 0));
    }

    /// Whoever came first, or last, stands anywhere as often as anybody: over 20 000 draws of ten the squared deviations come to
    /// about 90, by chance beyond 145 once in two thousand times.
    #[test]
    fn a_draw_is_fair() {
        let mut counts = [[0u32; 10]; 10];
        for seed in 0..20_000 {
            let draw = Draw::new(seed, 10);
            (0..10).for_each(|number| counts[number][draw.place(number as i64) as usize] += 1);
        }
        let expected = 2_000.0;
        let deviation = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
        let chi_squared: f64 = counts.iter().flatten().map(deviation).sum();
        assert!(chi_squared < 145.0, "{chi_squared}");
    }

    #[test]
    fn as_many_are_called_as_there_are_units() {
        let mut room = drawn(10);
        let nobody = HashSet::new();
        let next = |room: &Room, units: i64, until| room.next_call(units - room.on_their_way(&nobody), until);
        let first = next(&room, 3, at(60)).expect("three units");
        assert_eq!(first.places, 0..3);
        (room.called, room.calls) = (3, vec![first]);
        assert_eq!(next(&room, 3, at(60)), None, "three are on their way");
        // one has bought: a unit less, and one less on the way
        room.used.insert(1);
        assert_eq!((room.on_their_way(&nobody), next(&room, 2, at(60))), (2, None));
        // its hold lapses: the next is called
        assert_eq!(next(&room, 3, at(70)).expect("one came back").places, 3..4);
        // nobody bought in time, but one who is at it still may
        room.lapse(at(60));
        assert_eq!(room.on_their_way(&HashSet::from([2])), 1);
        assert_eq!(next(&room, 2, at(120)).expect("two lapsed").places, 3..5);
        assert_eq!(next(&room, 100, at(120)).expect("all that wait").places, 3..10);
    }

    #[test]
    fn everybody_can_tell_where_they_stand() {
        let mut room = Room { given: 4, ..Room::default() };
        assert_eq!((room.standing(0), room.next_call(9, at(60))), (LineState::BeforeTheDraw, None));
        room.draw = Some(Draw::new(3, 2));
        assert_eq!(room.standing(3), LineState::Waiting { ahead: 3 });
        (room.called, room.calls) = (3, vec![Call { places: 0..3, until: at(60) }]);
        assert_eq!(room.standing(2), LineState::Admitted { until: at(60) });
        room.used.insert(2);
        assert_eq!(room.standing(2), LineState::Used);
        room.lapse(at(60));
        let drawn_first = if room.place(0) == Some(0) { 0 } else { 1 };
        assert_eq!(room.standing(drawn_first), LineState::Lapsed);
        assert_eq!(room.wait(5, TimeDelta::seconds(30)), Some(TimeDelta::seconds(60)), "three in thirty seconds");
        assert_eq!(drawn(1).wait(0, TimeDelta::seconds(30)), None);
    }
}
