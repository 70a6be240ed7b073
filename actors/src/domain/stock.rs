//! The arithmetic of one SKU: what is on hand, what is reserved, and what has been promised but is not yet committed.

use serde::Serialize;

/// A SKU's counters as Postgres has them. `version` grows with every committed change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Units that are physically there.
    pub on_hand: i64,
    /// Units of those that belong to open orders.
    pub reserved: i64,
    /// Units of those whose orders are not paid: they may come back.
    pub unpaid: i64,
    /// Number of the change that made it so.
    pub version: i64,
}

impl Counters {
    /// Units that can still be sold.
    #[must_use]
    pub fn available(&self) -> i64 {
        self.on_hand - self.reserved
    }
}

/// Why units cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// Committed stock does not suffice: this is final until stock moves.
    SoldOut {
        /// What committed stock would still give.
        available: i64,
    },
    /// Only promises stand in the way whose commit is under way: they may yet fall through, so wait for them.
    Unsettled,
}

/// Counters plus the promises made ahead of their commit. One book a SKU; its actor alone promises from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Book {
    committed: Counters,
    unsettled: i64,
}

impl Book {
    /// A book that knows the committed counters and of `unsettled` units promised by an earlier keeper.
    #[must_use]
    pub fn new(committed: Counters) -> Self {
        Self { committed, unsettled: 0 }
    }

    /// The counters as last committed.
    #[must_use]
    pub fn committed(&self) -> Counters {
        self.committed
    }

    /// Units promised and not yet settled.
    #[must_use]
    pub fn unsettled(&self) -> i64 {
        self.unsettled
    }

    /// Promises `units`.
    ///
    /// # Errors
    /// [`Short`], and nothing changes.
    pub fn promise(&mut self, units: i64) -> Result<(), Short> {
        self.promise_beside(units, 0)
    }

    /// Promises `units` of what is not set aside.
    ///
    /// # Errors
    /// [`Short`], and nothing changes.
    pub fn promise_beside(&mut self, units: i64, aside: i64) -> Result<(), Short> {
        let available = (self.committed.available() - aside).max(0);
        if available < units {
            return Err(Short::SoldOut { available });
        }
        if available - self.unsettled < units {
            return Err(Short::Unsettled);
        }
        self.unsettled += units;
        Ok(())
    }

    /// A promise was kept or fell through: `units` are no longer unsettled. Where it was kept the caller has told the new
    /// counters first (see [`Book::learn`]), so that no unit is ever counted as free in between.
    pub fn settle(&mut self, units: i64) {
        self.unsettled -= units;
        assert!(self.unsettled >= 0, "more units settled than promised");
    }

    /// Takes over newer counters; older news is ignored, so the order of arrival does not matter.
    pub fn learn(&mut self, counters: Counters) {
        if counters.version > self.committed.version {
            self.committed = counters;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn promises_stand_in_the_way_until_they_settle() {
        let mut book = Book::new(Counters { on_hand: 3, reserved: 0, unpaid: 0, version: 1 });
        assert_eq!(book.promise(2), Ok(()));
        assert_eq!(book.promise(2), Err(Short::Unsettled), "may still fall through");
        assert_eq!(book.promise(4), Err(Short::SoldOut { available: 3 }), "never enough");
        book.learn(Counters { on_hand: 3, reserved: 2, unpaid: 2, version: 2 });
        book.settle(2);
        assert_eq!(book.promise(2), Err(Short::SoldOut { available: 1 }));
        assert_eq!(book.promise(1), Ok(()));
    }

    #[test]
    fn old_news_changes_nothing() {
        let mut book = Book::new(Counters { on_hand: 3, reserved: 2, unpaid: 0, version: 5 });
        book.learn(Counters { on_hand: 9, reserved: 0, unpaid: 0, version: 4 });
        assert_eq!(book.committed().available(), 1);
    }

    proptest! {
        /// Whatever comes and goes, kept and pending promises never exceed what is on hand.
        #[test]
        fn never_a_unit_too_many(on_hand in 0i64..20, steps in proptest::collection::vec((0u8..3, 1i64..5), 0..60)) {
            let mut book = Book::new(Counters { on_hand, reserved: 0, unpaid: 0, version: 1 });
            let mut pending = Vec::new();
            for (step, units) in steps {
                match step {
                    0 => if book.promise(units).is_ok() { pending.push(units) },
                    1 => if let Some(units) = pending.pop() {
                        let now = book.committed();
                        book.learn(Counters { reserved: now.reserved + units, version: now.version + 1, ..now });
                        book.settle(units);
                    },
                    _ => if let Some(units) = pending.pop() { book.settle(units) },
                }
                prop_assert!(book.committed().reserved + book.unsettled() <= on_hand);
            }
        }
    }
}
