//! What a SKU's actor shares with those it made promises to: the book, what sales have given of it, and the guard that is a
//! promise.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::{
    Book, Counters, Customer, NoShare, Offer, Refusal, Sale, SaleId, SaleItem, SaleShare, Short, SkuId, Sold, Tally,
    Used,
};

/// One SKU's book. Its actor alone promises from it; the journal writes committed counters in; dropping a [`Hold`] takes a
/// promise back. It outlives the actor, so a crash forgets no promise.
pub(crate) struct Shelf {
    sku_id: SkuId,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    book: Option<Book>,
    /// Whether it is known what sales have given: before that nothing is final.
    counted: bool,
    /// Of a SKU that is in a sale, or was.
    tallies: Option<Box<Tallies>>,
    /// What was heard of tallies since they are being counted afresh.
    heard: Option<Vec<(i64, ShareMove)>>,
    /// Wakes the actor when a promise settles; set while somebody waits for that.
    waker: Option<Box<dyn FnOnce() + Send>>,
}

/// What each sale has given of the SKU.
#[derive(Default)]
struct Tallies {
    by_sale: HashMap<SaleId, Tally>,
    /// The version of the counters that they were counted with: older news is in them already.
    as_of: i64,
}

impl Tallies {
    /// A SKU that is always busy would else keep every sale that it has ever been in.
    fn forget_past(&mut self, sales: &[Arc<Sale>]) {
        self.by_sale.retain(|sale_id, tally| !tally.is_settled() || sales.iter().any(|sale| sale.id == *sale_id));
    }
}

/// How units were quoted to a buyer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Buying {
    /// At the usual price, which is anybody's.
    Usual,
    /// In this sale, to this customer.
    InSale(SaleId, Customer),
}

/// Units that somebody wants.
pub(crate) struct Wish<'a> {
    pub units: i64,
    /// None: staff take them away, whatever they are set aside for.
    pub buying: Option<Buying>,
    /// The sales that the SKU is in, the earliest first.
    pub sales: &'a [Arc<Sale>],
    pub at: DateTime<Utc>,
}

/// Why units cannot be held.
#[derive(Debug)]
pub(crate) enum NoHold {
    /// Committed stock, or what the sale has, does not suffice.
    SoldOut { available: i64 },
    /// Only promises stand in the way whose commit is under way.
    Unsettled,
    /// They are not sold in this way, or not to this customer.
    NotOffered(Refusal),
}

impl From<Short> for NoHold {
    fn from(short: Short) -> Self {
        match short {
            Short::SoldOut { available } => Self::SoldOut { available },
            Short::Unsettled => Self::Unsettled,
        }
    }
}

/// What a commit changed of a sale's tally.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShareMove {
    pub sku_id: SkuId,
    pub share: SaleShare,
    /// So many units more were sold, or, below zero, came back.
    pub units: i64,
    /// So many more of those that are sold are not paid, or, below zero, were paid or came back.
    pub unpaid: i64,
}

/// A count that is under way; dropped before it has come to its end it has counted nothing.
pub(crate) struct Counting<'a>(&'a Shelf);

impl Counting<'_> {
    /// Takes over what Postgres has counted, as of a version of the counters, and what was heard since. What was known before
    /// is let go of afterwards: whoever commits waits for this lock.
    pub(crate) fn ends(self, as_of: i64, counted: Vec<Counted>) {
        let mut before = Vec::with_capacity(counted.len());
        let mut inner = self.0.lock();
        let heard = inner.heard.take().unwrap_or_default();
        inner.counted = true;
        let tallies = inner.tallies.get_or_insert_default();
        tallies.as_of = as_of;
        for Counted { sale_id, sold, used } in counted {
            let tally = tallies.by_sale.entry(sale_id).or_default();
            before.push(tally.restart(sold, used));
            let since = heard.iter().filter(|(version, moved)| *version > as_of && moved.share.sale_id == sale_id);
            since.for_each(|(_, moved)| tally.learn(moved.units, moved.unpaid, moved.share.customer));
        }
        drop(inner);
        drop(before);
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        self.0.lock().heard = None;
    }
}

/// How units would be had.
enum Terms<'a> {
    Usual { aside: i64 },
    InSale(&'a Arc<Sale>, &'a SaleItem, Option<(Customer, i64)>),
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

    /// Takes committed counters in, from a load or from the journal, together with what the commit changed of sales' tallies;
    /// older news is ignored.
    pub(crate) fn learn(&self, counters: Counters, moves: &[ShareMove]) {
        let waker = {
            let mut inner = self.lock();
            match &mut inner.book {
                Some(book) => book.learn(counters),
                none => *none = Some(Book::new(counters)),
            }
            inner.learn_shares(counters.version, moves);
            inner.waker.take()
        };
        wake(waker);
    }

    /// What sales have given is about to be counted by Postgres: from now on everything that is heard of it is kept, so that
    /// one question suffices however much is sold meanwhile.
    pub(crate) fn count(&self) -> Counting<'_> {
        self.lock().heard = Some(Vec::new());
        Counting(self)
    }

    /// No sale has given anything of it: there is nothing to count.
    pub(crate) fn nothing_to_count(&self) {
        self.lock().counted = true;
    }

    /// Whether what sales have given was counted when the counters were at this version, or later.
    pub(crate) fn is_counted_since(&self, version: i64) -> bool {
        self.lock().tallies.as_ref().is_some_and(|tallies| tallies.as_of >= version)
    }

    /// The counters as last committed; none before the first load, and before it is known what sales have given.
    #[must_use]
    pub(crate) fn committed(&self) -> Option<Counters> {
        let inner = self.lock();
        inner.book.filter(|_| inner.counted).map(|book| book.committed())
    }

    /// Units that a sale has sold, as committed.
    #[must_use]
    pub(crate) fn sold_in(&self, sale_id: SaleId) -> i64 {
        self.lock().sold_in(sale_id)
    }

    /// The counters, and what a sale has sold, as of one commit; none like [`Shelf::committed`].
    #[must_use]
    pub(crate) fn committed_in(&self, sale_id: SaleId) -> Option<(Counters, Sold)> {
        let inner = self.lock();
        let counters = inner.book.filter(|_| inner.counted)?.committed();
        Some((counters, inner.tally(sale_id).map(Tally::committed).unwrap_or_default()))
    }

    /// Units promised and not settled.
    #[must_use]
    pub(crate) fn unsettled(&self) -> i64 {
        self.lock().book.map_or(0, |book| book.unsettled())
    }

    /// Why the units cannot be had, where that is final; also none before it is known what sales have given.
    pub(crate) fn refuses(&self, wish: &Wish<'_>) -> Option<NoHold> {
        let inner = self.lock();
        if !inner.counted {
            return None;
        }
        let terms = match inner.terms(self.sku_id, wish) {
            Ok(terms) => terms,
            Err(no) => return Some(no),
        };
        inner.final_word(self.sku_id, wish.units, &terms).err()
    }

    /// Promises units. Only the SKU's actor calls this.
    ///
    /// # Errors
    /// [`NoHold`].
    pub(crate) fn promise(self: &Arc<Self>, wish: &Wish<'_>) -> Result<Hold, NoHold> {
        let units = wish.units;
        let mut inner = self.lock();
        if let Some(tallies) = &mut inner.tallies {
            tallies.forget_past(wish.sales);
        }
        let terms = inner.terms(self.sku_id, wish)?;
        inner.final_word(self.sku_id, units, &terms)?;
        let book = inner.book.as_mut().ok_or(NoHold::SoldOut { available: 0 })?;
        let share = match terms {
            Terms::Usual { aside } => {
                book.promise_beside(units, aside)?;
                None
            }
            Terms::InSale(sale, item, limit) => {
                book.promise(units)?;
                let tally = inner.tallies.get_or_insert_default().by_sale.entry(sale.id).or_default();
                if tally.promise(item.quantity, units, limit).is_err() {
                    inner.settle(units, None);
                    return Err(NoHold::Unsettled); // what is final has been said
                }
                Some(Box::new(Share { sale: Arc::clone(sale), customer: limit.map(|(customer, _)| customer) }))
            }
        };
        Ok(Hold { shelf: Arc::clone(self), units, share })
    }

    /// Calls `waker` once, as soon as a promise settles or counters change.
    pub(crate) fn wake_on_change(&self, waker: Box<dyn FnOnce() + Send>) {
        self.lock().waker = Some(waker);
    }

    fn settle(&self, units: i64, share: Option<SaleShare>) {
        let waker = {
            let mut inner = self.lock();
            inner.settle(units, share);
            inner.waker.take()
        };
        wake(waker);
    }
}

impl Inner {
    fn learn_shares(&mut self, version: i64, moves: &[ShareMove]) {
        if let Some(heard) = &mut self.heard {
            heard.extend(moves.iter().map(|moved| (version, *moved)));
        }
        if moves.is_empty() {
            return;
        }
        let tallies = self.tallies.get_or_insert_default();
        for moved in moves.iter().filter(|_| version > tallies.as_of) {
            let SaleShare { sale_id, customer } = moved.share;
            // of a sale that nobody asks about any more, units may still come back
            let tally = match tallies.by_sale.get_mut(&sale_id) {
                Some(tally) => tally,
                None if moved.units > 0 => tallies.by_sale.entry(sale_id).or_default(),
                None => continue,
            };
            tally.learn(moved.units, moved.unpaid, customer);
        }
    }

    fn tally(&self, sale_id: SaleId) -> Option<&Tally> {
        self.tallies.as_ref()?.by_sale.get(&sale_id)
    }

    fn sold_in(&self, sale_id: SaleId) -> i64 {
        self.tally(sale_id).map_or(0, |tally| tally.committed().units)
    }

    /// How the units would be had, if they were quoted as they are sold now.
    fn terms<'a>(&self, sku_id: SkuId, wish: &Wish<'a>) -> Result<Terms<'a>, NoHold> {
        let Some(buying) = wish.buying else { return Ok(Terms::Usual { aside: 0 }) };
        match (Offer::of(wish.sales, sku_id, wish.at, |sale_id| self.sold_in(sale_id)), buying) {
            (Offer::Usual { aside }, Buying::Usual) => Ok(Terms::Usual { aside }),
            (Offer::InSale(sale, item), Buying::InSale(quoted, customer)) if quoted == sale.id => {
                Ok(Terms::InSale(sale, item, sale.per_customer.map(|limit| (customer, limit))))
            }
            (Offer::NotBefore(sale), Buying::Usual) => {
                let (sale_id, starts_at) = (sale.id, sale.starts_at);
                Err(NoHold::NotOffered(Refusal::SaleNotStarted { sku_id, sale_id, starts_at }))
            }
            (Offer::Usual { .. } | Offer::InSale(..) | Offer::NotBefore(_), _) => {
                Err(NoHold::NotOffered(Refusal::OfferChanged { sku_id }))
            }
        }
    }

    /// What can be said at once: by committed stock, by what the sale has sold, and by the customer's limit.
    fn final_word(&self, sku_id: SkuId, units: i64, terms: &Terms<'_>) -> Result<(), NoHold> {
        let Some(book) = &self.book else { return Ok(()) };
        let available = book.committed().available();
        let available = match terms {
            Terms::Usual { aside } => (available - aside).max(0),
            Terms::InSale(sale, item, limit) => {
                let may_have = match self.tally(sale.id) {
                    Some(tally) => tally.may_have(item.quantity, units, *limit),
                    None => Tally::default().may_have(item.quantity, units, *limit),
                };
                match may_have {
                    Err(NoShare::Limit { used }) => {
                        let limit = limit.map_or(0, |(_, limit)| limit);
                        let refusal = Refusal::LimitReached { sku_id, sale_id: sale.id, limit, used };
                        return Err(NoHold::NotOffered(refusal));
                    }
                    Err(NoShare::Gone { left }) => available.min(left),
                    Ok(()) | Err(NoShare::Unsettled) => available,
                }
            }
        };
        if available < units { Err(NoHold::SoldOut { available }) } else { Ok(()) }
    }

    fn settle(&mut self, units: i64, share: Option<SaleShare>) {
        if let Some(book) = &mut self.book {
            book.settle(units);
        }
        let tally = share.and_then(|share| self.tallies.as_mut()?.by_sale.get_mut(&share.sale_id));
        if let Some((tally, share)) = tally.zip(share) {
            tally.settle(units, share.customer);
        }
    }
}

/// What Postgres has counted of one sale.
#[derive(Debug)]
pub(crate) struct Counted {
    pub sale_id: SaleId,
    pub sold: Sold,
    pub used: Used,
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
    share: Option<Box<Share>>,
}

/// The sale that a promise is of.
struct Share {
    sale: Arc<Sale>,
    customer: Option<Customer>,
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

    /// In which sale, where they are of one.
    #[must_use]
    pub fn sale(&self) -> Option<&Sale> {
        self.share.as_deref().map(|share| &*share.sale)
    }

    /// The sale, and whose limit it counts against.
    #[must_use]
    pub fn share(&self) -> Option<SaleShare> {
        self.share.as_deref().map(|share| SaleShare { sale_id: share.sale.id, customer: share.customer })
    }
}

/// For how long lines are held together: each as its sale says or as the policy does, and the shortest counts.
pub(crate) fn keeps(holds: &[Hold], policy: TimeDelta) -> TimeDelta {
    let of = |hold: &Hold| hold.sale().and_then(|sale| sale.hold).unwrap_or(policy);
    holds.iter().map(of).min().unwrap_or(policy)
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shelf.settle(self.units, self.share());
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

    const SALE: SaleId = SaleId(7);

    fn counters(version: i64) -> Counters {
        Counters { on_hand: 9, reserved: 0, unpaid: 0, version }
    }

    fn sold(units: i64) -> [ShareMove; 1] {
        let customer = Some(Customer::guest(&"ann@a.b".parse().expect("an address")));
        [ShareMove { sku_id: SkuId(1), share: SaleShare { sale_id: SALE, customer }, units, unpaid: units }]
    }

    fn unpaid(units: i64) -> Sold {
        Sold { units, unpaid: units }
    }

    fn counted(units: i64) -> Vec<Counted> {
        vec![Counted { sale_id: SALE, sold: unpaid(units), used: Used::new() }]
    }

    #[test]
    fn one_count_suffices_however_much_is_sold_meanwhile() {
        let shelf = Shelf::new(SkuId(1));
        shelf.learn(counters(4), &[]);
        let counting = shelf.count();
        shelf.learn(counters(5), &sold(1));
        shelf.learn(counters(6), &sold(2));
        assert_eq!(shelf.committed(), None, "nobody sees what is not counted");
        // Postgres was asked between the two
        counting.ends(5, counted(11));
        assert_eq!(shelf.committed_in(SALE), Some((counters(6), unpaid(13))));
        shelf.learn(counters(7), &sold(-1));
        assert_eq!(shelf.sold_in(SALE), 12);
        // and one that fails leaves everything as it is
        drop(shelf.count());
        shelf.learn(counters(8), &sold(1));
        assert_eq!(shelf.committed_in(SALE), Some((counters(8), unpaid(13))));
        // news that comes after the count of it is in it already
        shelf.count().ends(9, counted(20));
        shelf.learn(counters(9), &sold(7));
        assert_eq!(shelf.sold_in(SALE), 20);
    }

    #[test]
    fn what_a_sale_that_is_over_has_given_is_forgotten() {
        let shelf = Shelf::new(SkuId(1));
        shelf.learn(counters(1), &sold(2));
        assert_eq!(shelf.sold_in(SALE), 2);
        let wish = Wish { units: 1, buying: Some(Buying::Usual), sales: &[], at: DateTime::UNIX_EPOCH };
        let hold = shelf.promise(&wish).expect("it is there");
        assert_eq!(shelf.lock().tallies.as_ref().map(|tallies| tallies.by_sale.len()), Some(0));
        // what comes back to it later concerns nobody
        shelf.learn(counters(2), &sold(-1));
        assert_eq!(shelf.sold_in(SALE), 0);
        drop(hold);
    }

    #[test]
    fn a_dropped_hold_gives_its_units_back_and_wakes_who_waits() {
        let shelf = Shelf::new(SkuId(1));
        shelf.learn(Counters { on_hand: 1, reserved: 0, unpaid: 0, version: 1 }, &[]);
        let wish = Wish { units: 1, buying: None, sales: &[], at: DateTime::UNIX_EPOCH };
        let hold = shelf.promise(&wish).expect("one is there");
        assert!(matches!(shelf.promise(&wish), Err(NoHold::Unsettled)), "promised");
        let (sender, receiver) = std::sync::mpsc::channel();
        shelf.wake_on_change(Box::new(move || sender.send(()).expect("listening")));
        drop(hold);
        receiver.try_recv().expect("woken");
        assert!(shelf.promise(&wish).is_ok());
    }
}
