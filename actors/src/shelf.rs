//! What a SKU's actor shares with those it made promises to: the book, and the guard that is a promise.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::domain::{Book, Counters, Short, SkuId};

/// One SKU's book. Its actor alone promises from it; the journal writes committed counters in; dropping a [`Hold`] takes a
/// promise back. It outlives the actor, so a crash forgets no promise.
pub(crate) struct Shelf {
    sku_id: SkuId,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    book: Option<Book>,
    /// Wakes the actor when a promise settles; set while somebody waits for that.
    waker: Option<Box<dyn FnOnce() + Send>>,
}

impl Shelf {
    /// An empty shelf; the first counters it learns open its book.
    #[must_use]
    pub(crate) fn new(sku_id: SkuId) -> Arc<Self> {
        Arc::new(Self { sku_id, inner: Mutex::default() })
    }

    /// Whose shelf it is.
    #[must_use]
    pub(crate) fn sku_id(&self) -> SkuId {
        self.sku_id
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under this lock")
    }

    /// Takes committed counters in, from a load or from the journal; older news is ignored.
    pub(crate) fn learn(&self, counters: Counters) {
        let waker = {
            let mut inner = self.lock();
            match &mut inner.book {
                Some(book) => book.learn(counters),
                none => *none = Some(Book::new(counters)),
            }
            inner.waker.take()
        };
        wake(waker);
    }

    /// The counters as last committed; none before the first load.
    #[must_use]
    pub(crate) fn committed(&self) -> Option<Counters> {
        self.lock().book.map(|book| book.committed())
    }

    /// Units promised and not settled.
    #[must_use]
    pub(crate) fn unsettled(&self) -> i64 {
        self.lock().book.map_or(0, |book| book.unsettled())
    }

    /// Promises `units`. Only the SKU's actor calls this.
    ///
    /// # Errors
    /// [`Short`].
    pub(crate) fn promise(self: &Arc<Self>, units: i64) -> Result<Hold, Short> {
        let mut inner = self.lock();
        let book = inner.book.as_mut().ok_or(Short::SoldOut { available: 0 })?;
        book.promise(units)?;
        Ok(Hold { shelf: Arc::clone(self), units })
    }

    /// Calls `waker` once, as soon as a promise settles or counters change.
    pub(crate) fn wake_on_change(&self, waker: Box<dyn FnOnce() + Send>) {
        self.lock().waker = Some(waker);
    }

    fn settle(&self, units: i64) {
        let waker = {
            let mut inner = self.lock();
            if let Some(book) = &mut inner.book {
                book.settle(units);
            }
            inner.waker.take()
        };
        wake(waker);
    }
}

fn wake(waker: Option<Box<dyn FnOnce() + Send>>) {
    if let Some(waker) = waker {
        waker();
    }
}

/// A promise of units that is not yet settled. Dropping it settles it: after the commit, when the shelf has already learnt
/// the counters that include it, or before, when nothing came of it.
pub struct Hold {
    shelf: Arc<Shelf>,
    units: i64,
}

impl Hold {
    /// Of which SKU.
    #[must_use]
    pub fn sku_id(&self) -> SkuId {
        self.shelf.sku_id
    }

    /// How many.
    #[must_use]
    pub fn units(&self) -> i64 {
        self.units
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shelf.settle(self.units);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.units, self.shelf.sku_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_hold_gives_its_units_back_and_wakes_who_waits() {
        let shelf = Shelf::new(SkuId(1));
        shelf.learn(Counters { on_hand: 1, reserved: 0, unpaid: 0, version: 1 });
        let hold = shelf.promise(1).expect("one is there");
        assert_eq!(shelf.promise(1).expect_err("promised"), Short::Unsettled);
        let (sender, receiver) = std::sync::mpsc::channel();
        shelf.wake_on_change(Box::new(move || sender.send(()).expect("listening")));
        drop(hold);
        receiver.try_recv().expect("woken");
        assert!(shelf.promise(1).is_ok());
    }
}
