//! One entry of the journal: everything that one decision writes, committed whole or not at all.

use std::fmt;

use chrono::{DateTime, Utc};

use crate::{
    domain::{
        OrderId, OrderStatus, PartState, SkuId, Who,
        change::{Changes, NoticeRow},
    },
    shelf::{Hold, ShareMove},
};

/// All rows of one decision, and the promises they keep.
pub struct Entry {
    /// When it was decided.
    pub at: DateTime<Utc>,
    /// Who caused it.
    pub who: Who,
    /// The key that makes its repetition harmless; taken by an earlier entry, and this one is taken out.
    pub key: Option<Key>,
    /// A new order.
    pub place: Option<Box<Placement>>,
    /// New reservations, of a new order or of an old one.
    pub lines: Vec<Line>,
    /// Everything else.
    pub changes: Option<Box<Changes>>,
    /// Who is to hear of its events; the journal fills it in.
    pub notices: Vec<NoticeRow>,
    /// Promises to take stock away, kept until this is settled.
    pub holds: Vec<Hold>,
    /// What this is known by where a sale had no room for its lines after all: an id that nothing else has. Zero where none
    /// of them is of a sale.
    pub look_id: i64,
}

/// An idempotency key and what it is used for.
#[derive(Clone)]
pub struct Key {
    /// Whose key.
    pub principal: String,
    /// As the client sent it.
    pub key: String,
    /// For which command.
    pub route: &'static str,
    /// Of which request, SHA-256.
    pub fingerprint: [u8; 32],
    /// What it makes: an id that nothing else has.
    pub ref_id: i64,
}

/// An order's first row.
pub struct Placement {
    /// Its id.
    pub order_id: OrderId,
    /// Whose.
    pub email: String,
    /// Where to, as JSON.
    pub address: String,
    /// In which currency.
    pub currency: String,
    /// What it costs, shipping included.
    pub total_minor: i64,
    /// What of that is shipping.
    pub shipping_minor: i64,
    /// How it is sent, as JSON, where that was chosen.
    pub shipping: Option<String>,
    /// When its hold ends.
    pub deadline: DateTime<Utc>,
    /// `awaiting_payment`, or `confirmed` where there is nothing to pay.
    pub status: OrderStatus,
}

/// Why an entry was taken out of its batch: conflicts are data, remembered by an id each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// Its key was used before; by the id of what the key was to make.
    KeyTaken,
    /// Its order, its stock or its sale had moved on; by the order's id, or the condition's.
    Stale,
}

impl fmt::Debug for Entry {
    /// Whose it is, what happened and how much that was: what people have written is nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes = self.changes.as_deref();
        let moved = changes.and_then(|changes| changes.order.as_ref()).map(|moved| moved.order_id);
        let kinds: Vec<_> = changes.into_iter().flat_map(|c| &c.events).map(|event| event.kind).collect();
        f.debug_struct("Entry")
            .field("order_id", &self.place.as_deref().map(|place| place.order_id).or(moved))
            .field("who", &self.who)
            .field("key", &self.key)
            .field("events", &kinds)
            .field("lines", &self.lines.len())
            .field("rows", &self.weight())
            .finish()
    }
}

impl fmt::Debug for Key {
    /// A key may open what it made: it is nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {})", self.route, self.ref_id)
    }
}

impl fmt::Debug for Placement {
    /// Neither is where a buyer lives.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Placement({}, {} {})", self.order_id, self.total_minor, self.currency)
    }
}

/// One new reservation and the promise that it keeps.
#[derive(Debug)]
pub struct Line {
    /// Of which order.
    pub order_id: OrderId,
    /// Its number within the order.
    pub part: i32,
    /// The line it belongs to.
    pub line: i32,
    /// At what price each.
    pub unit_price_minor: i64,
    /// Held, or sold at once.
    pub state: PartState,
    /// SKU and units.
    pub hold: Hold,
}

impl Entry {
    /// An entry of nothing yet.
    #[must_use]
    pub fn new(at: DateTime<Utc>, who: Who) -> Self {
        Self {
            at,
            who,
            key: None,
            place: None,
            lines: Vec::new(),
            changes: None,
            notices: Vec::new(),
            holds: Vec::new(),
            look_id: 0,
        }
    }

    /// The key of an order that is placed with it.
    #[must_use]
    pub fn placing_key(&self) -> Option<&Key> {
        self.place.as_ref().and(self.key.as_ref())
    }

    /// What takes this entry out of a batch whose conflicts are `ids`, if anything does.
    #[must_use]
    pub fn conflict(&self, ids: &[i64]) -> Option<Conflict> {
        if ids.is_empty() {
            return None;
        }
        let changes = self.changes.as_deref();
        let moved = changes.and_then(|changes| changes.order.as_ref());
        let mut conditions = changes.into_iter().flat_map(Changes::conditions);
        let taken = self.key.as_ref().is_some_and(|key| ids.contains(&key.ref_id));
        let stale = moved.is_some_and(|moved| ids.contains(&moved.order_id.0))
            || conditions.any(|condition| ids.contains(&condition))
            || self.look_id > 0 && ids.contains(&self.look_id);
        match (taken, stale) {
            (true, _) => Some(Conflict::KeyTaken),
            (false, true) => Some(Conflict::Stale),
            (false, false) => None,
        }
    }

    /// Rows, about: what a batch is capped by.
    #[must_use]
    pub fn weight(&self) -> usize {
        let changes = self.changes.as_ref().map_or(0, |c| {
            let turns = c.chunk.as_ref().map_or(0, |chunk| chunk.turns.len() * 3);
            let stock = c.parts.len() + c.splits.len() + c.openings.len() + c.adjustments.len();
            stock + c.events.len() + c.facts.len() + turns + 4
        });
        2 + self.lines.len() * 2 + self.notices.len() + changes
    }

    /// Whether any of its lines is bought in a sale.
    #[must_use]
    pub fn is_of_a_sale(&self) -> bool {
        self.look_id > 0
    }

    /// What this entry changes of sales' tallies.
    pub(crate) fn shares(&self) -> impl Iterator<Item = ShareMove> {
        let units_if = |holds: bool, units: i64| if holds { units } else { 0 };
        let sold = self.lines.iter().filter_map(move |line| {
            let (sku_id, share, units) = (line.hold.sku_id(), line.hold.share()?, line.hold.units());
            Some(ShareMove { sku_id, share, units, unpaid: units_if(line.state == PartState::Held, units) })
        });
        let parts = self.changes.as_deref().map_or(&[][..], |changes| &changes.parts);
        let moved = parts.iter().filter_map(move |part| {
            let units = units_if(part.to.is_given_back(), -part.units);
            let unpaid = units_if(part.from == PartState::Held, -part.units);
            let share = part.share.filter(|_| units + unpaid < 0)?;
            Some(ShareMove { sku_id: part.sku_id, share, units, unpaid })
        });
        sold.chain(moved)
    }

    /// Every SKU whose counters this entry changes.
    pub fn skus(&self) -> impl Iterator<Item = SkuId> {
        let changes = self.changes.as_deref();
        let parts = changes.into_iter().flat_map(|changes| changes.parts.iter().map(|part| part.sku_id));
        let adjusted = changes.into_iter().flat_map(|changes| changes.adjustments.iter().map(|row| row.sku_id));
        let turns = changes.into_iter().filter_map(|changes| changes.chunk.as_ref()).flat_map(|chunk| &chunk.turns);
        let imported = turns.map(|turn| turn.sku_id);
        let opened = changes.into_iter().flat_map(|changes| changes.openings.iter().map(|row| row.sku_id));
        self.lines.iter().map(|line| line.hold.sku_id()).chain(parts).chain(adjusted).chain(imported).chain(opened)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::change::EventRow;

    #[test]
    fn what_people_wrote_is_not_printed() {
        let event = EventRow { order_id: OrderId(7), seq: 2, kind: "note", data: json!({ "text": "call Ann Lee" }) };
        let changes = Changes { events: vec![event], ..Changes::default() };
        let entry = Entry { changes: Some(Box::new(changes)), ..Entry::new(DateTime::UNIX_EPOCH, Who::Staff) };
        let printed = format!("{entry:?}");
        assert!(printed.contains("note") && !printed.contains("Ann"), "{printed}");
    }
}
