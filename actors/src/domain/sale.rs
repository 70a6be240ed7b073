//! Sales: some SKUs, for a while, at a price of their own, so many units of each and so many for one customer.
//!
//! Of a SKU that is in a sale, three things can be had at a moment, and [`Offer`] says which: units of the sale, while it runs;
//! nothing, before a sale that the SKU is sold in alone; else what no sale has set aside, at the usual price. What a sale has
//! of a SKU is set aside from the moment the sale is made, until it ends.

use std::{collections::HashMap, fmt, sync::Arc};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use super::{Email, Invalid, MOST_UNITS, Money, Quantity, Refusal, SaleId, SkuId, clean, words};

/// The most SKUs that one sale has.
const MOST_ITEMS: usize = 1_000;
/// The longest that a sale's checkout holds its lines.
const LONGEST_HOLD: TimeDelta = TimeDelta::hours(24);
/// The longest that a sale runs, and the furthest that it begins in the future.
const FURTHEST: TimeDelta = TimeDelta::days(366);
/// How long before a sale begins its terms are settled: a change of them is committed, and known to everybody, by then.
const SETTLED: TimeDelta = TimeDelta::seconds(10);

words! {
    /// Where a sale stands.
    SalePhase {
        /// It has not begun.
        Coming = "coming",
        /// It has begun and not ended.
        Running = "running",
        /// It has ended.
        Over = "over",
        /// It was called off before it began.
        Cancelled = "cancelled",
    }
}

/// A sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sale {
    /// Its id.
    pub id: SaleId,
    /// Grows with every change.
    pub version: i32,
    /// What it is called.
    pub name: String,
    /// It runs from here …
    pub starts_at: DateTime<Utc>,
    /// … to here; this moment is no longer in it.
    pub ends_at: DateTime<Utc>,
    /// How many units of one SKU one customer can have of it.
    pub per_customer: Option<i64>,
    /// How long a checkout of it holds its lines, where not as long as the shop's others.
    pub hold: Option<TimeDelta>,
    /// Whether buyers queue for it.
    pub waiting_room: bool,
    /// When it was called off, where it was before it began.
    pub cancelled_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// What is sold in it, every SKU once.
    pub items: Vec<SaleItem>,
}

/// What a sale has of a SKU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaleItem {
    /// Of which SKU.
    pub sku_id: SkuId,
    /// How many units.
    pub quantity: i64,
    /// Until the sale ends the SKU is sold in it alone.
    pub exclusive: bool,
    /// What one costs in it, a price a currency.
    pub prices: Vec<Money>,
}

impl SaleItem {
    /// What one costs in a currency.
    #[must_use]
    pub fn price(&self, currency: super::Currency) -> Option<Money> {
        self.prices.iter().find(|price| price.currency == currency).copied()
    }
}

impl Sale {
    /// Where it stands at a moment.
    #[must_use]
    pub fn phase(&self, at: DateTime<Utc>) -> SalePhase {
        match () {
            () if self.cancelled_at.is_some() => SalePhase::Cancelled,
            () if at < self.starts_at => SalePhase::Coming,
            () if at < self.ends_at => SalePhase::Running,
            () => SalePhase::Over,
        }
    }

    /// Whether it runs at a moment, or will.
    #[must_use]
    pub fn is_open(&self, at: DateTime<Utc>) -> bool {
        matches!(self.phase(at), SalePhase::Coming | SalePhase::Running)
    }

    /// What it has of a SKU.
    #[must_use]
    pub fn item(&self, sku_id: SkuId) -> Option<&SaleItem> {
        self.items.iter().find(|item| item.sku_id == sku_id)
    }

    /// Whether another sale has one of its SKUs in a part of its time; which.
    #[must_use]
    pub fn meets(&self, other: &Self) -> Option<SkuId> {
        let together = self.starts_at < other.ends_at && other.starts_at < self.ends_at;
        let stand = self.cancelled_at.is_none() && other.cancelled_at.is_none();
        if self.id == other.id || !together || !stand {
            return None;
        }
        self.items.iter().map(|item| item.sku_id).find(|sku_id| other.item(*sku_id).is_some())
    }

    /// Whether everything in it is what it should be.
    ///
    /// # Errors
    /// [`Invalid`] with the field.
    pub fn checked(self) -> Result<Self, Invalid> {
        let name = clean("name", &self.name, 200)?;
        if name.is_empty() {
            return Err(Invalid::new("name", "is missing"));
        }
        if self.ends_at.trunc_subsecs(6) <= self.starts_at.trunc_subsecs(6) {
            return Err(Invalid::new("ends_at", "is not after starts_at"));
        }
        if self.ends_at - self.starts_at > FURTHEST {
            return Err(Invalid::new("ends_at", "is more than 366 days after starts_at"));
        }
        if self.per_customer.is_some_and(|limit| !(1..=Quantity::MAX).contains(&limit)) {
            return Err(Invalid::new("per_customer", format!("is a whole number from 1 to {}", Quantity::MAX)));
        }
        if self.hold.is_some_and(|hold| hold < TimeDelta::minutes(1) || hold > LONGEST_HOLD) {
            return Err(Invalid::new("hold_minutes", "is a whole number from 1 to 1440"));
        }
        check_items(&self.items)?;
        // to the microsecond that Postgres keeps
        let (starts_at, ends_at) = (self.starts_at.trunc_subsecs(6), self.ends_at.trunc_subsecs(6));
        Ok(Self { name, starts_at, ends_at, ..self })
    }

    /// The same with changes, as far as they can be made at this moment: until ten seconds before it begins everything can
    /// change; then, and while it runs, its name, its end and how many units it has.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], or [`Refusal::SaleState`] where it is too late for that.
    pub fn changed(&self, change: SaleChange, at: DateTime<Utc>) -> Result<Self, Refusal> {
        let phase = self.phase(at);
        let why = match phase {
            SalePhase::Over | SalePhase::Cancelled => Some("nothing of it can change any more"),
            SalePhase::Running if change.is_of_what_was_announced() => {
                Some("only its name, its end and its quantities can change")
            }
            SalePhase::Coming if at >= self.starts_at - SETTLED && change.is_of_what_was_announced() => {
                Some("it begins within ten seconds: only its name, its end and its quantities can change")
            }
            SalePhase::Coming | SalePhase::Running => None,
        };
        if let Some(why) = why {
            return Err(Refusal::SaleState { phase, why });
        }
        let mut items = change.items.unwrap_or_else(|| self.items.clone());
        for (sku_id, quantity) in change.quantities {
            let item = items.iter_mut().find(|item| item.sku_id == sku_id);
            item.ok_or_else(|| Invalid::new("quantities", format!("{sku_id} is not in this sale")))?.quantity =
                quantity;
        }
        let changed = Self {
            name: change.name.unwrap_or_else(|| self.name.clone()),
            starts_at: change.starts_at.unwrap_or(self.starts_at),
            ends_at: change.ends_at.unwrap_or(self.ends_at),
            per_customer: change.per_customer.unwrap_or(self.per_customer),
            hold: change.hold.unwrap_or(self.hold),
            waiting_room: change.waiting_room.unwrap_or(self.waiting_room),
            items,
            version: self.version + 1,
            ..*self
        }
        .checked()?;
        changed.lies_ahead(at, phase == SalePhase::Coming)?;
        Ok(changed)
    }

    /// Whether it can begin and end when it says, seen from now.
    ///
    /// # Errors
    /// [`Invalid`] where that is past, or too far off.
    pub fn lies_ahead(&self, at: DateTime<Utc>, coming: bool) -> Result<(), Invalid> {
        if coming && self.starts_at < at {
            return Err(Invalid::new("starts_at", "is past"));
        }
        if self.starts_at > at + FURTHEST {
            return Err(Invalid::new("starts_at", "is more than 366 days off"));
        }
        if self.ends_at < at {
            return Err(Invalid::new("ends_at", "is past"));
        }
        Ok(())
    }

    /// The same, called off: it never takes place, or, where it runs, ends now. Asked again it changes nothing.
    #[must_use]
    pub fn ended(&self, at: DateTime<Utc>) -> Option<Self> {
        let version = self.version + 1;
        match self.phase(at) {
            SalePhase::Coming => Some(Self { cancelled_at: Some(at), version, ..self.clone() }),
            SalePhase::Running => {
                // a sale has run for a moment at the least
                let ends_at = at.max(self.starts_at + TimeDelta::microseconds(1));
                Some(Self { ends_at, version, ..self.clone() })
            }
            SalePhase::Over | SalePhase::Cancelled => None,
        }
    }
}

fn check_items(items: &[SaleItem]) -> Result<(), Invalid> {
    if !(1..=MOST_ITEMS).contains(&items.len()) {
        return Err(Invalid::new("skus", format!("a sale has 1 to {MOST_ITEMS} SKUs")));
    }
    let mut sku_ids: Vec<SkuId> = items.iter().map(|item| item.sku_id).collect();
    sku_ids.sort_unstable();
    sku_ids.dedup();
    if sku_ids.len() < items.len() {
        return Err(Invalid::new("skus", "name one SKU twice"));
    }
    for (at, item) in items.iter().enumerate() {
        let field = |name: &str| format!("skus[{at}].{name}");
        if !(1..=MOST_UNITS).contains(&item.quantity) {
            return Err(Invalid::new(field("quantity"), format!("is a whole number from 1 to {MOST_UNITS}")));
        }
        if item.prices.is_empty() {
            return Err(Invalid::new(field("prices"), "are missing"));
        }
        let twice = |(at, price): (usize, &Money)| item.prices[..at].iter().any(|p| p.currency == price.currency);
        if item.prices.iter().enumerate().any(twice) {
            return Err(Invalid::new(field("prices"), "name one currency twice"));
        }
    }
    Ok(())
}

/// What of a sale is to change; what is not given stays.
#[derive(Debug, Clone, Default)]
pub struct SaleChange {
    /// What it is called.
    pub name: Option<String>,
    /// When it begins.
    pub starts_at: Option<DateTime<Utc>>,
    /// When it ends.
    pub ends_at: Option<DateTime<Utc>>,
    /// How many units one customer can have; none of it: no limit.
    pub per_customer: Option<Option<i64>>,
    /// How long a checkout holds its lines; none of it: as the shop's others.
    pub hold: Option<Option<TimeDelta>>,
    /// Whether buyers queue for it.
    pub waiting_room: Option<bool>,
    /// Everything that is sold in it.
    pub items: Option<Vec<SaleItem>>,
    /// How many units it has of SKUs that are in it.
    pub quantities: Vec<(SkuId, i64)>,
}

impl SaleChange {
    /// Whether it would change what buyers of a running sale were told.
    fn is_of_what_was_announced(&self) -> bool {
        self.starts_at.is_some()
            || self.per_customer.is_some()
            || self.hold.is_some()
            || self.waiting_room.is_some()
            || self.items.is_some()
    }
}

/// A sale to be made.
#[derive(Debug, Clone)]
pub struct NewSale {
    /// What it is called.
    pub name: String,
    /// When it begins; at once where that is not given.
    pub starts_at: Option<DateTime<Utc>>,
    /// When it ends.
    pub ends_at: DateTime<Utc>,
    /// How many units of one SKU one customer can have.
    pub per_customer: Option<i64>,
    /// How long a checkout holds its lines.
    pub hold: Option<TimeDelta>,
    /// Whether buyers queue for it.
    pub waiting_room: bool,
    /// What is sold in it, and whether each is sold in it alone: where that is not given, it is if the sale has all there is.
    pub items: Vec<(SaleItem, Option<bool>)>,
}

// ── customers ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A customer as limits know one: a hash, so that no address stands among the rows. SHA-256, the first half.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Customer([u8; 16]);

impl Customer {
    /// Whoever reads this mailbox, however its address was typed.
    ///
    /// What follows a `+` in the local part is the reader's own mark (RFC 5233) and does not count. At Gmail dots in the
    /// local part do not count either, and `googlemail.com` is another name of the same mailboxes; elsewhere a dot makes
    /// another mailbox.
    #[must_use]
    pub fn guest(email: &Email) -> Self {
        let (local, domain) = email.as_str().split_once('@').unwrap_or((email.as_str(), ""));
        let plain = local.split_once('+').map_or(local, |(plain, _)| plain);
        let plain = if plain.is_empty() { local } else { plain };
        let mailbox = match domain {
            "gmail.com" | "googlemail.com" => format!("{}@gmail.com", plain.replace('.', "")),
            _ => format!("{plain}@{domain}"),
        };
        let mut half = [0; 16];
        half.copy_from_slice(&Sha256::digest(mailbox)[..16]);
        Self(half)
    }

    /// As it stands in a row.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Out of a row.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Debug for Customer {
    /// Who bought what is nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Customer(…)")
    }
}

/// In which sale a line was bought, and, where that has a limit, by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaleShare {
    /// The sale.
    pub sale_id: SaleId,
    /// The customer whose limit it counts against.
    pub customer: Option<Customer>,
}

// ── what can be had ──────────────────────────────────────────────────────────────────────────────────────────────────

/// How a SKU is sold at a moment.
#[derive(Debug)]
pub enum Offer<'a> {
    /// At its usual price; so many units are set aside for sales to come.
    Usual { aside: i64 },
    /// In this sale.
    InSale(&'a Arc<Sale>, &'a SaleItem),
    /// Not before this sale begins.
    NotBefore(&'a Arc<Sale>),
}

impl<'a> Offer<'a> {
    /// How a SKU is sold at a moment, by the sales that it is in. `sold` tells how many units a sale has sold of it.
    pub fn of(sales: &'a [Arc<Sale>], sku_id: SkuId, at: DateTime<Utc>, sold: impl Fn(SaleId) -> i64) -> Self {
        let mut aside = 0;
        for sale in sales {
            let Some(item) = sale.item(sku_id) else { continue };
            match sale.phase(at) {
                SalePhase::Running if item.exclusive || sold(sale.id) < item.quantity => {
                    return Self::InSale(sale, item);
                }
                SalePhase::Coming if item.exclusive => return Self::NotBefore(sale),
                SalePhase::Coming => aside += item.quantity,
                SalePhase::Running | SalePhase::Over | SalePhase::Cancelled => {}
            }
        }
        Self::Usual { aside }
    }
}

/// Why a sale gives no units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoShare {
    /// The customer has so many already, paid or not.
    Limit { used: i64 },
    /// The sale has no more than this left.
    Gone { left: i64 },
    /// Only promises stand in the way whose commit is under way.
    Unsettled,
}

/// What one sale has sold of one SKU, as committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sold {
    /// Units in orders that were not called off.
    pub units: i64,
    /// Units of those whose orders are not paid: they may come back.
    pub unpaid: i64,
}

/// What one sale has given of one SKU, and to whom: committed, and promised ahead of the commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    sold: Sold,
    promised: i64,
    /// As committed, of those who have any; many.
    used: Used,
    /// Of those who are promised any; few.
    promised_to: Used,
}

/// Units by customer, and nobody with none.
pub type Used = HashMap<Customer, i64>;

impl Tally {
    /// What was sold, as committed.
    #[must_use]
    pub fn committed(&self) -> Sold {
        self.sold
    }

    /// Whether nothing of it is promised.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.promised == 0
    }

    /// Takes over what Postgres knows; promises stay. What was known before is handed back: to let go of many customers takes
    /// a while.
    pub fn restart(&mut self, sold: Sold, used: Used) -> Used {
        self.sold = sold;
        std::mem::replace(&mut self.used, used)
    }

    /// Promises units of what the sale has. A limit counts promises like purchases and is told at once; what the sale has
    /// left may yet return while promises stand in the way.
    ///
    /// # Errors
    /// [`NoShare`], and nothing changes.
    pub fn promise(&mut self, quantity: i64, units: i64, limit: Option<(Customer, i64)>) -> Result<(), NoShare> {
        self.may_have(quantity, units, limit)?;
        if quantity - self.sold.units - self.promised < units {
            return Err(NoShare::Unsettled);
        }
        self.promised += units;
        if let Some((customer, _)) = limit {
            add(&mut self.promised_to, customer, units);
        }
        Ok(())
    }

    /// Whether units can be had, as far as that is final.
    ///
    /// # Errors
    /// [`NoShare`].
    pub fn may_have(&self, quantity: i64, units: i64, limit: Option<(Customer, i64)>) -> Result<(), NoShare> {
        if let Some((customer, cap)) = limit {
            let of = |units: &Used| units.get(&customer).copied().unwrap_or_default();
            let used = of(&self.used) + of(&self.promised_to);
            if used + units > cap {
                return Err(NoShare::Limit { used });
            }
        }
        let left = (quantity - self.sold.units).max(0);
        if left < units { Err(NoShare::Gone { left }) } else { Ok(()) }
    }

    /// A promise was kept or fell through. Where it was kept, [`Tally::learn`] has been told first.
    pub fn settle(&mut self, units: i64, customer: Option<Customer>) {
        self.promised -= units;
        assert!(self.promised >= 0, "more units settled than promised");
        if let Some(customer) = customer {
            add(&mut self.promised_to, customer, -units);
        }
    }

    /// So many units more were sold, or, below zero, came back; and so many more are not paid, or no longer are.
    pub fn learn(&mut self, units: i64, unpaid: i64, customer: Option<Customer>) {
        self.sold.units += units;
        self.sold.unpaid += unpaid;
        if let Some(customer) = customer {
            add(&mut self.used, customer, units);
        }
    }
}

fn add(used: &mut Used, customer: Customer, units: i64) {
    let has = used.entry(customer).or_default();
    *has += units;
    if *has == 0 {
        used.remove(&customer);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::microseconds(micros)
    }

    fn sale(id: i64, from: i64, to: i64, exclusive: bool) -> Arc<Sale> {
        let price = Money::new(500, "USD".parse().expect("known"));
        let item = SaleItem { sku_id: SkuId(1), quantity: 10, exclusive, prices: vec![price] };
        Arc::new(Sale {
            id: SaleId(id),
            version: 1,
            name: "Friday".into(),
            starts_at: at(from),
            ends_at: at(to),
            per_customer: Some(2),
            hold: None,
            waiting_room: false,
            cancelled_at: None,
            created_at: at(0),
            items: vec![item],
        })
    }

    fn customer(email: &str) -> Customer {
        Customer::guest(&email.parse().expect("an address"))
    }

    #[test]
    fn the_window_holds_its_start_and_not_its_end() {
        let sales = [sale(1, 100, 200, true), sale(2, 300, 400, false)];
        let told = |micros, sold| match Offer::of(&sales, SkuId(1), at(micros), |_| sold) {
            Offer::Usual { aside } => format!("usual, {aside} aside"),
            Offer::InSale(sale, _) => format!("in {}", sale.id.0),
            Offer::NotBefore(sale) => format!("not before {}", sale.id.0),
        };
        assert_eq!(told(99, 0), "not before 1");
        assert_eq!(told(100, 0), "in 1");
        assert_eq!(told(199, 10), "in 1", "alone in it, also when it is sold out");
        assert_eq!(told(200, 0), "usual, 10 aside");
        assert_eq!(told(300, 9), "in 2");
        assert_eq!(told(300, 10), "usual, 0 aside", "the others are sold when the sale's are gone");
        assert_eq!(told(400, 0), "usual, 0 aside");
    }

    #[test]
    fn a_mailbox_is_one_customer_however_it_is_spelt() {
        let ann = customer("ann.lee@example.com");
        assert_eq!(ann, customer(" Ann.Lee@EXAMPLE.com "));
        assert_eq!(ann, customer("ann.lee+sale@example.com"));
        assert_ne!(ann, customer("annlee@example.com"), "a dot is a letter");
        let gmail = customer("annlee@gmail.com");
        assert_eq!(gmail, customer("Ann.Lee+2@googlemail.com"));
        assert_ne!(customer("+a@example.com"), customer("+b@example.com"), "nothing stands before the mark");
        assert!(!format!("{ann:?}").contains("ann"));
    }

    #[test]
    fn what_was_announced_stands_while_it_runs() {
        let running = sale(1, 100, 200, true);
        let change = SaleChange { per_customer: Some(None), ..SaleChange::default() };
        let settled = at(100) - SETTLED;
        assert!(running.changed(change.clone(), settled - TimeDelta::microseconds(1)).is_ok());
        for at in [settled, at(99), at(100)] {
            assert!(matches!(running.changed(change.clone(), at), Err(Refusal::SaleState { .. })));
        }
        let renamed = SaleChange { name: Some("Black Friday".into()), ..SaleChange::default() };
        assert!(running.changed(renamed, at(99)).is_ok());
        let longer = SaleChange { ends_at: Some(at(500)), ..SaleChange::default() };
        assert_eq!(running.changed(longer.clone(), at(150)).expect("it can").ends_at, at(500));
        assert!(matches!(running.changed(longer, at(200)), Err(Refusal::SaleState { .. })));
        let past = SaleChange { ends_at: Some(at(149)), ..SaleChange::default() };
        assert!(matches!(running.changed(past, at(150)), Err(Refusal::Invalid(_))));
        let ended = running.ended(at(100)).expect("it runs");
        assert_eq!((ended.ends_at, ended.phase(at(101))), (at(101), SalePhase::Over));
        assert_eq!(running.ended(at(99)).expect("it comes").phase(at(150)), SalePhase::Cancelled);
        assert_eq!(running.ended(at(200)), None);
    }

    #[test]
    fn sales_meet_where_they_share_a_sku_and_a_moment() {
        let (first, second, third) = (sale(1, 100, 200, true), sale(2, 199, 300, true), sale(3, 200, 300, true));
        assert_eq!(first.meets(&second), Some(SkuId(1)));
        assert_eq!(first.meets(&third), None);
        assert_eq!(first.meets(&first), None);
        assert_eq!(first.ended(at(0)).expect("it comes").meets(&second), None);
    }

    proptest! {
        /// Whatever is promised, kept, lost and given back: never more than the sale has, nor than a customer may have.
        #[test]
        fn never_a_unit_past_the_sale_or_the_limit(
            quantity in 1i64..12, cap in 1i64..5, steps in proptest::collection::vec((0u8..4, 0u8..3, 1i64..4), 0..80),
        ) {
            let customers = ["a@x.y", "b@x.y", "c@x.y"].map(customer);
            let mut tally = Tally::default();
            let mut promised: Vec<(Customer, i64)> = Vec::new();
            let mut kept: Vec<(Customer, i64)> = Vec::new();
            for (step, who, units) in steps {
                let who = customers[usize::from(who)];
                match step {
                    0 => match tally.promise(quantity, units, Some((who, cap))) {
                        Ok(()) => promised.push((who, units)),
                        Err(NoShare::Limit { used }) => prop_assert!(used + units > cap),
                        Err(NoShare::Gone { left }) => prop_assert!(left < units),
                        Err(NoShare::Unsettled) => prop_assert!(!promised.is_empty()),
                    },
                    1 => if let Some((who, units)) = promised.pop() {
                        tally.learn(units, 0, Some(who));
                        tally.settle(units, Some(who));
                        kept.push((who, units));
                    },
                    2 => if let Some((who, units)) = promised.pop() { tally.settle(units, Some(who)) },
                    _ => if let Some((who, units)) = kept.pop() { tally.learn(-units, 0, Some(who)) },
                }
                let all: i64 = promised.iter().chain(&kept).map(|(_, units)| units).sum();
                prop_assert!(all <= quantity);
                for customer in customers {
                    let own = promised.iter().chain(&kept).filter(|(who, _)| *who == customer);
                    prop_assert!(own.map(|(_, units)| units).sum::<i64>() <= cap);
                }
            }
            // and what Postgres knows is what is left over
            let mut fresh = Tally::default();
            for (who, units) in &promised {
                prop_assert!(fresh.promise(quantity, *units, Some((*who, cap))).is_ok());
            }
            let mut used = Used::new();
            kept.iter().for_each(|(who, units)| add(&mut used, *who, *units));
            fresh.restart(Sold { units: kept.iter().map(|(_, units)| units).sum(), unpaid: 0 }, used);
            prop_assert_eq!(fresh, tally);
        }
    }
}
