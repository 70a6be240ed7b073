//! A parcel of an order: its label, and where it is. Where it is is folded from what the carrier said, never from what we
//! hoped, and comes out the same in whatever order the carrier's words arrived.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Customs, Label, Money, Parcel, Service, ShipmentId, SkuId, Tracking, TrackingStatus, words};

words! {
    /// Where a shipment stands.
    ShipmentState {
        /// Packed on paper: something must happen before its label is bought.
        Draft = "draft",
        /// Its label is being bought.
        Purchasing = "purchasing",
        /// Ready to be handed over.
        Labelled = "labelled",
        /// The carrier gave no label; staff may try again.
        LabelFailed = "label_failed",
        /// The label's money is asked back.
        Voiding = "voiding",
        /// It came to nothing; its lines are free for another shipment.
        Voided = "voided",
        /// The label's money does not come back: the label is still good.
        VoidRejected = "void_rejected",
        /// With the carrier.
        InTransit = "in_transit",
        /// With the carrier, and something is wrong: lost, destroyed, undeliverable.
        Exception = "exception",
        /// On its way back, or back.
        ReturnedToSender = "returned_to_sender",
        /// With the buyer.
        Delivered = "delivered",
    }
}

/// What can happen to a shipment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShipmentEvent {
    /// Nothing stands in the way of its label.
    LabelWanted,
    /// It needs no label.
    NoLabelNeeded,
    /// Before its label was bought something came in the way.
    PutBack,
    /// The label is bought.
    LabelBought,
    /// The carrier gave none.
    LabelRefused,
    /// The label's money is wanted back.
    VoidWanted,
    /// It comes back.
    VoidGranted,
    /// It does not.
    VoidRefused,
    /// It is given up: there is no label, or its money is lost.
    Dropped,
    /// It is with the carrier.
    Left,
    /// Something went wrong on the way.
    WentWrong,
    /// It comes back.
    TurnedBack,
    /// It is with the buyer.
    Arrived,
}

impl ShipmentState {
    /// The state after something has happened; none where it cannot happen, or changes nothing.
    #[must_use]
    pub fn after(self, event: ShipmentEvent) -> Option<Self> {
        use ShipmentEvent as E;
        use ShipmentState as S;
        let next = match (self, event) {
            (S::Draft | S::LabelFailed, E::LabelWanted) => S::Purchasing,
            (S::Draft, E::NoLabelNeeded) => S::Labelled,
            (S::Purchasing, E::PutBack) => S::Draft,
            (S::Purchasing, E::LabelBought) => S::Labelled,
            (S::Purchasing, E::LabelRefused) => S::LabelFailed,
            (S::Labelled | S::VoidRejected, E::VoidWanted) => S::Voiding,
            (S::Voiding, E::VoidGranted) => S::Voided,
            (S::Voiding, E::VoidRefused) => S::VoidRejected,
            (S::Draft | S::LabelFailed | S::Labelled | S::VoidRejected, E::Dropped) => S::Voided,
            (S::Labelled | S::Voiding | S::VoidRejected | S::Exception, E::Left) => S::InTransit,
            (S::Labelled | S::Voiding | S::VoidRejected | S::InTransit, E::WentWrong) => S::Exception,
            (S::Labelled | S::Voiding | S::VoidRejected | S::InTransit | S::Exception, E::TurnedBack) => {
                S::ReturnedToSender
            }
            (
                S::Labelled | S::Voiding | S::VoidRejected | S::InTransit | S::Exception | S::ReturnedToSender,
                E::Arrived,
            ) => S::Delivered,
            _ => return None,
        };
        Some(next)
    }
}

/// Some units of one line in a shipment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShipmentLine {
    /// The order's line, from 0.
    pub line: i32,
    /// What.
    pub sku_id: SkuId,
    /// How many.
    pub quantity: i64,
}

/// A shipment with all that its carrier has said of it.
#[derive(Debug, Clone)]
pub struct Shipment {
    /// Ours.
    pub id: ShipmentId,
    /// Where it stands.
    pub state: ShipmentState,
    /// What is in it.
    pub lines: Vec<ShipmentLine>,
    /// How it is sent.
    pub service: Service,
    /// The box.
    pub parcel: Parcel,
    /// What customs want to know.
    pub customs: Option<Customs>,
    /// What a draft waits for.
    pub waits: Option<String>,
    /// The carrier's id of the label, once it has one.
    pub label_id: Option<String>,
    /// The carrier's token.
    pub carrier: Option<String>,
    /// The parcel's number.
    pub tracking_number: Option<String>,
    /// Where a buyer can follow it.
    pub tracking_url: Option<String>,
    /// Where the label's file is, for a while.
    pub file_url: Option<String>,
    /// What the label cost.
    pub cost: Option<Money>,
    /// Why there is no label, in the carrier's words.
    pub error: Option<String>,
    /// Until when a purchase whose end nobody heard of is only looked for; kept as the mark that there was one.
    pub doubt_until: Option<DateTime<Utc>>,
    /// When it was packed.
    pub created_at: DateTime<Utc>,
    /// When its label was bought.
    pub bought_at: Option<DateTime<Utc>>,
    /// When its goods left.
    pub left_at: Option<DateTime<Utc>>,
    /// When something was last heard of it.
    pub news_at: DateTime<Utc>,
    /// When the carrier is next asked unbidden.
    pub check_at: Option<DateTime<Utc>>,
    /// How often it was.
    pub checks: i32,
    /// What the carrier said, each once.
    pub facts: Vec<Tracking>,
}

/// When a carrier that has not called is asked where a parcel is: after one hour and six, then daily.
const CHECKS: [TimeDelta; 2] = [TimeDelta::hours(1), TimeDelta::hours(6)];
/// A parcel of which nothing is heard for so long is asked about no more.
const SILENCE: TimeDelta = TimeDelta::days(30);

impl Service {
    /// Who needs no label from us: staff enters a number by hand, or none.
    pub const MANUAL: &str = "manual";

    /// Whether a carrier is asked for the label.
    #[must_use]
    pub fn is_manual(&self) -> bool {
        self.provider == Self::MANUAL
    }
}

impl Shipment {
    /// Whether its units wait in it: no other shipment, and no cancel, may have them.
    #[must_use]
    pub fn is_packed(&self) -> bool {
        match self.state {
            ShipmentState::Draft
            | ShipmentState::Purchasing
            | ShipmentState::Labelled
            | ShipmentState::LabelFailed
            | ShipmentState::Voiding
            | ShipmentState::VoidRejected => true,
            ShipmentState::Voided
            | ShipmentState::InTransit
            | ShipmentState::Exception
            | ShipmentState::ReturnedToSender
            | ShipmentState::Delivered => false,
        }
    }

    /// Whether staff may hand it over: there is a label, or none is needed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, ShipmentState::Labelled | ShipmentState::VoidRejected)
    }

    /// Whether the carrier is asked where it is: labelled or under way.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        match self.state {
            ShipmentState::Labelled
            | ShipmentState::Voiding
            | ShipmentState::VoidRejected
            | ShipmentState::InTransit
            | ShipmentState::Exception => self.tracking_number.is_some() && !self.service.is_manual(),
            ShipmentState::Draft
            | ShipmentState::Purchasing
            | ShipmentState::LabelFailed
            | ShipmentState::Voided
            | ShipmentState::ReturnedToSender
            | ShipmentState::Delivered => false,
        }
    }

    /// Units of one line in it.
    #[must_use]
    pub fn units(&self, line: i32) -> i64 {
        self.lines.iter().filter(|packed| packed.line == line).map(|packed| packed.quantity).sum()
    }

    /// Takes over what the carrier says of the label.
    pub(super) fn know(&mut self, label: &Label) {
        self.label_id = Some(label.label_id.clone());
        for (known, told) in [
            (&mut self.carrier, &label.carrier),
            (&mut self.tracking_number, &label.tracking_number),
            (&mut self.tracking_url, &label.tracking_url),
            (&mut self.file_url, &label.file_url),
        ] {
            if told.is_some() {
                known.clone_from(told);
            }
        }
        self.cost = label.cost.or(self.cost);
    }

    /// Those of `facts` that are new.
    pub(super) fn learn(&mut self, facts: Vec<Tracking>) -> Vec<Tracking> {
        let mut fresh = Vec::new();
        for fact in facts {
            let same = |known: &Tracking| {
                known.status == fact.status && known.substatus == fact.substatus && known.at == fact.at
            };
            if !self.facts.iter().any(same) {
                self.facts.push(fact.clone());
                fresh.push(fact);
            }
        }
        fresh
    }

    /// Where the parcel is by all that was said: delivered and returned are the last words, whenever they were said; of the
    /// others the latest counts.
    #[must_use]
    pub fn whereabouts(&self) -> Option<&Tracking> {
        let last = |status| self.facts.iter().filter(move |fact| fact.status == status).max_by_key(|fact| fact.at);
        let latest = || self.facts.iter().max_by_key(|fact| (fact.at, fact.status));
        last(TrackingStatus::Delivered).or_else(|| last(TrackingStatus::Returned)).or_else(latest)
    }

    /// Whether the carrier brings back what it had delivered.
    #[must_use]
    pub fn comes_back(&self) -> bool {
        let times = |status| self.facts.iter().filter(move |fact| fact.status == status).map(|fact| fact.at);
        let delivered = times(TrackingStatus::Delivered).min();
        delivered.is_some_and(|delivered| times(TrackingStatus::Returned).any(|returned| returned >= delivered))
    }

    /// When the carrier is to be asked next; never, once nothing was heard for a month.
    #[must_use]
    pub fn next_check(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let begun = self.bought_at.unwrap_or(self.created_at);
        let scheduled = CHECKS.iter().map(|pause| begun + *pause).find(|due| *due > now);
        let next = scheduled.unwrap_or(now + TimeDelta::days(1));
        (self.is_followed() && next <= self.news_at + SILENCE).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parcel() -> Shipment {
        Shipment {
            id: ShipmentId(1),
            state: ShipmentState::Labelled,
            lines: Vec::new(),
            service: Service { provider: "fake".into(), carrier: "c".into(), token: "t".into(), name: "n".into() },
            parcel: Parcel { length_mm: 1, width_mm: 1, height_mm: 1, grams: 1 },
            customs: None,
            waits: None,
            label_id: None,
            carrier: None,
            tracking_number: Some("N".into()),
            tracking_url: None,
            file_url: None,
            cost: None,
            error: None,
            doubt_until: None,
            created_at: DateTime::UNIX_EPOCH,
            bought_at: None,
            left_at: None,
            news_at: DateTime::UNIX_EPOCH,
            check_at: None,
            checks: 0,
            facts: Vec::new(),
        }
    }

    fn word(rank: usize, minutes: i64) -> Tracking {
        let ranks = [
            TrackingStatus::Unknown,
            TrackingStatus::PreTransit,
            TrackingStatus::Transit,
            TrackingStatus::Failure,
            TrackingStatus::Returned,
            TrackingStatus::Delivered,
        ];
        let at = DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        Tracking { status: ranks[rank], substatus: None, details: String::new(), at }
    }

    proptest! {
        /// Late, doubled, out of order: what is known in the end does not depend on how it was told.
        #[test]
        fn the_order_of_arrival_does_not_matter(
            words in proptest::collection::vec((0usize..6, 0i64..6), 0..12).prop_flat_map(|words| {
                (Just(words.clone()), Just(words).prop_shuffle())
            })
        ) {
            let told = |words: &[(usize, i64)]| {
                let mut parcel = parcel();
                for (rank, minutes) in words {
                    let _ = parcel.learn(vec![word(*rank, *minutes)]);
                }
                (parcel.whereabouts().map(|fact| (fact.status, fact.at)), parcel.comes_back(), parcel.facts.len())
            };
            prop_assert_eq!(told(&words.0), told(&words.1));
        }
    }

    #[test]
    fn a_parcel_is_asked_about_for_a_month_of_silence() {
        let parcel = parcel();
        let mut now = parcel.created_at;
        let mut asked = Vec::new();
        while let Some(next) = parcel.next_check(now) {
            asked.push((next - parcel.created_at).num_hours());
            now = next;
        }
        assert_eq!(asked[..4], [1, 6, 30, 54]);
        assert_eq!(asked.last(), Some(&(6 + 24 * 29)));
    }
}
