//! An order on its way from the checkout that has placed it to its actor, which would else read what was written a moment ago.

use std::sync::Mutex;

/// One in the cell of each order. What is left in it is as it was committed, and nobody has moved it: only an actor of this
/// cell could have, and from the first of them on nothing is taken in or given out any more.
pub(crate) struct Handover<T>(Mutex<HandedOver<T>>);

enum HandedOver<T> {
    NotYet,
    Left(Box<T>),
    TooLate,
}

impl<T> Default for Handover<T> {
    fn default() -> Self {
        Self(Mutex::new(HandedOver::NotYet))
    }
}

impl<T> Handover<T> {
    /// Leaves it for the first actor, unless that has begun without it.
    pub(super) fn leave(&self, order: T) {
        let mut handed_over = self.0.lock().expect("no panic under this lock");
        if matches!(*handed_over, HandedOver::NotYet) {
            *handed_over = HandedOver::Left(Box::new(order));
        }
    }

    /// What an actor that begins finds; none: it has to load.
    pub(super) fn take(&self) -> Option<Box<T>> {
        let mut handed_over = self.0.lock().expect("no panic under this lock");
        match std::mem::replace(&mut *handed_over, HandedOver::TooLate) {
            HandedOver::Left(order) => Some(order),
            HandedOver::NotYet | HandedOver::TooLate => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_for_the_first_alone() {
        let handover = Handover::default();
        handover.leave(1);
        assert_eq!(handover.take().as_deref(), Some(&1));
        assert_eq!(handover.take(), None, "a later life loads");
    }

    #[test]
    fn who_has_begun_without_it_is_not_followed_by_one_who_begins_with_it() {
        let handover = Handover::default();
        assert_eq!(handover.take(), None);
        handover.leave(1);
        assert_eq!(handover.take(), None);
    }
}
