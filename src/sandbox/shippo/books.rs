//! What Shippo knows. As in the bank, a [`Change`] carries the new state of whatever it touches.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::sandbox::books::{Attempt, DeliveryState, Named, Shelf};

/// An address, a parcel, a customs item or a customs declaration: kept as it is answered.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Thing {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) view: Map<String, Value>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Address,
    Parcel,
    CustomsItem,
    CustomsDeclaration,
}

/// Parcels that are to go from here to there, and what that would cost.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Shipment {
    pub(super) id: String,
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
    /// QUEUED until then; without it the rates are there.
    pub(super) queued: Option<Queued>,
    pub(super) from: Map<String, Value>,
    pub(super) to: Map<String, Value>,
    pub(super) back: Option<Map<String, Value>>,
    pub(super) parcels: Vec<Map<String, Value>>,
    pub(super) customs: Option<Map<String, Value>>,
    pub(super) metadata: String,
    pub(super) shipment_date: String,
    pub(super) extra: Option<Value>,
    pub(super) rates: Vec<String>,
    pub(super) messages: Vec<Message>,
}

impl Shipment {
    /// Two letters.
    pub(super) fn country(address: &Map<String, Value>) -> &str {
        address.get("country").and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn crosses_a_border(&self) -> bool {
        Self::country(&self.from) != Self::country(&self.to)
    }
}

/// For how long something stays QUEUED.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Queued {
    Until(DateTime<Utc>),
    /// Until a test says otherwise.
    Stuck,
}

/// What one service asks for one shipment.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Rate {
    pub(super) id: String,
    pub(super) shipment: String,
    pub(super) created: DateTime<Utc>,
    /// The token of the service; the rest of it stands in the tariff.
    pub(super) service: String,
    pub(super) usd_cents: i64,
    /// The sender's and the recipient's.
    pub(super) currency: String,
    pub(super) currency_local: String,
    pub(super) attributes: Vec<String>,
}

/// A label, or the attempt to buy one.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Transaction {
    pub(super) id: String,
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
    pub(super) status: TransactionStatus,
    /// Set while it is QUEUED.
    pub(super) queued: Option<Queued>,
    pub(super) rate: String,
    pub(super) shipment: String,
    /// Bought without asking for rates first: answers then carry the whole rate.
    pub(super) instalabel: bool,
    pub(super) metadata: String,
    pub(super) label_file_type: String,
    pub(super) carrier: String,
    pub(super) tracking_number: String,
    pub(super) messages: Vec<Message>,
    /// When the link to the file ends to work.
    pub(super) label_expires: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum TransactionStatus {
    Waiting,
    Queued,
    Success,
    Error,
    Refunded,
    RefundPending,
    RefundRejected,
}

impl TransactionStatus {
    /// Whether there is a label that somebody has paid for, or has paid for once.
    pub(super) fn is_bought(self) -> bool {
        self != Self::Error
    }

    /// Whether the label can be used.
    pub(super) fn is_live(self) -> bool {
        match self {
            Self::Waiting | Self::Queued | Self::Success | Self::RefundRejected => true,
            Self::Error | Self::Refunded | Self::RefundPending => false,
        }
    }
}

/// Why something went wrong, in a carrier's words.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) source: String,
    pub(super) code: String,
    pub(super) text: String,
}

/// A label given back, or the request.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Refund {
    pub(super) id: String,
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
    pub(super) transaction: String,
    pub(super) status: RefundStatus,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum RefundStatus {
    Queued,
    Pending,
    Success,
    Error,
}

/// Where a parcel has been, as far as anybody has scanned it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Track {
    pub(super) key: String,
    pub(super) carrier: String,
    pub(super) number: String,
    pub(super) metadata: String,
    pub(super) transaction: Option<String>,
    /// How often somebody has asked to be told of it: each asks for a webhook of its own.
    pub(super) registrations: u32,
    /// In the order in which they were told.
    pub(super) scans: Vec<Scan>,
}

impl Track {
    pub(super) fn key(carrier: &str, number: &str) -> String {
        format!("{carrier}/{number}")
    }

    pub(super) fn begun(carrier: &str, number: &str) -> Self {
        Self {
            key: Self::key(carrier, number),
            carrier: carrier.to_owned(),
            number: number.to_owned(),
            metadata: String::new(),
            transaction: None,
            registrations: 0,
            scans: Vec::new(),
        }
    }

    /// The scan with the newest date, which need not be the one told last.
    pub(super) fn newest(&self) -> Option<&Scan> {
        self.scans.iter().max_by_key(|scan| scan.date)
    }
}

/// One scan of a parcel.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Scan {
    pub(super) id: String,
    pub(super) created: DateTime<Utc>,
    pub(super) status: String,
    pub(super) substatus: Option<String>,
    pub(super) details: String,
    pub(super) date: DateTime<Utc>,
}

/// A URL that wants to hear of events.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Hook {
    pub(super) id: String,
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
    pub(super) url: String,
    pub(super) event: String,
    pub(super) active: bool,
    pub(super) is_test: bool,
    /// Deleted hooks stay in the books.
    pub(super) deleted: bool,
}

/// One event on its way to one URL.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub(super) id: String,
    pub(super) event: String,
    pub(super) url: String,
    pub(super) created: DateTime<Utc>,
    pub(super) state: DeliveryState,
    pub(super) attempts: Vec<Attempt>,
    /// Byte for byte as it is delivered.
    pub(super) body: Box<RawValue>,
}

/// The new state of all that one step has touched; a line of the journal.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Change {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) things: Vec<Arc<Thing>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) shipments: Vec<Arc<Shipment>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) rates: Vec<Arc<Rate>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) transactions: Vec<Arc<Transaction>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) refunds: Vec<Arc<Refund>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tracks: Vec<Arc<Track>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) hooks: Vec<Arc<Hook>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) deliveries: Vec<Arc<Delivery>>,
}

impl Change {
    pub(super) fn delivery(delivery: Delivery) -> Self {
        Self { deliveries: vec![Arc::new(delivery)], ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.things.is_empty()
            && self.shipments.is_empty()
            && self.rates.is_empty()
            && self.transactions.is_empty()
            && self.refunds.is_empty()
            && self.tracks.is_empty()
            && self.hooks.is_empty()
            && self.deliveries.is_empty()
    }
}

macro_rules! named {
    ($($record:ty: $name:ident),+ $(,)?) => {
        $(impl Named for $record {
            fn name(&self) -> &str {
                &self.$name
            }
        })+
    };
}

named!(Thing: id, Shipment: id, Rate: id, Transaction: id, Refund: id, Track: key, Hook: id, Delivery: id);

/// How many labels were bought under one `metadata`.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Labels {
    pub(super) bought: u32,
    pub(super) live: u32,
}

#[derive(Default)]
pub(super) struct Books {
    pub(super) things: Shelf<Thing>,
    pub(super) shipments: Shelf<Shipment>,
    pub(super) rates: Shelf<Rate>,
    pub(super) transactions: Shelf<Transaction>,
    pub(super) refunds: Shelf<Refund>,
    pub(super) tracks: Shelf<Track>,
    pub(super) hooks: Shelf<Hook>,
    pub(super) deliveries: Shelf<Delivery>,
    /// What is QUEUED until a time.
    queue: BTreeSet<(DateTime<Utc>, String)>,
    refund_of: HashMap<String, String>,
}

impl Books {
    pub(super) fn apply(&mut self, change: &Change) {
        for thing in &change.things {
            self.things.put(Arc::clone(thing));
        }
        for shipment in &change.shipments {
            let before = self.shipments.put(Arc::clone(shipment));
            self.queue_again(&shipment.id, before.and_then(|before| before.queued), shipment.queued);
        }
        for rate in &change.rates {
            self.rates.put(Arc::clone(rate));
        }
        for transaction in &change.transactions {
            let before = self.transactions.put(Arc::clone(transaction));
            self.queue_again(&transaction.id, before.and_then(|before| before.queued), transaction.queued);
        }
        for refund in &change.refunds {
            self.refund_of.insert(refund.transaction.clone(), refund.id.clone());
            self.refunds.put(Arc::clone(refund));
        }
        for track in &change.tracks {
            self.tracks.put(Arc::clone(track));
        }
        for hook in &change.hooks {
            self.hooks.put(Arc::clone(hook));
        }
        for delivery in &change.deliveries {
            self.deliveries.put(Arc::clone(delivery));
        }
    }

    fn queue_again(&mut self, id: &str, before: Option<Queued>, now: Option<Queued>) {
        if let Some(Queued::Until(due)) = before {
            self.queue.remove(&(due, id.to_owned()));
        }
        if let Some(Queued::Until(due)) = now {
            self.queue.insert((due, id.to_owned()));
        }
    }

    /// When the next of the QUEUED is to be done.
    pub(super) fn next_due(&self) -> Option<DateTime<Utc>> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// The ids of all that is to be done by now.
    pub(super) fn due(&self, now: DateTime<Utc>) -> Vec<String> {
        self.queue.iter().take_while(|(due, _)| *due <= now).map(|(_, id)| id.clone()).collect()
    }

    pub(super) fn thing(&self, kind: Kind, id: &str) -> Option<&Arc<Thing>> {
        self.things.get(id).filter(|thing| thing.kind == kind)
    }

    pub(super) fn refund_of(&self, transaction_id: &str) -> Option<&Arc<Refund>> {
        self.refunds.get(self.refund_of.get(transaction_id)?)
    }

    pub(super) fn track(&self, carrier: &str, number: &str) -> Option<&Arc<Track>> {
        self.tracks.get(&Track::key(carrier, number))
    }

    pub(super) fn live_hooks(&self) -> impl Iterator<Item = &Arc<Hook>> {
        self.hooks.rows().iter().filter(|hook| !hook.deleted)
    }

    /// The labels by the `metadata` they were bought under.
    pub(super) fn labels(&self) -> BTreeMap<String, Labels> {
        let mut labels: BTreeMap<String, Labels> = BTreeMap::new();
        for transaction in self.transactions.rows() {
            let counted = labels.entry(transaction.metadata.clone()).or_default();
            counted.bought += u32::from(transaction.status.is_bought());
            counted.live += u32::from(transaction.status.is_live());
        }
        labels
    }
}
