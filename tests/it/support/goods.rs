//! The words in which staff and carriers speak to an engine about parcels.

use std::sync::atomic::{AtomicU32, Ordering};

use souk_actors::{
    ParcelWebhook,
    domain::{
        Command, OrderId, OrderStatus, Packing, Parcel, Refusal, ReturnId, Service, ShipmentId, ShipmentState, SkuId,
        Units,
    },
    ports::ParcelLocator,
    store::read::ShipmentView,
};

use super::{Ask, Mood, TestEngine, basket, eventually};

/// A box as carriers take it.
pub(crate) const BOX: Parcel = Parcel { length_mm: 300, width_mm: 200, height_mm: 100, grams: 900 };

/// A shipment of everything that is in none yet, with the carrier of these stories.
pub(crate) fn everything() -> Packing {
    let service = Service {
        provider: "parcels".into(),
        carrier: "tortoise".into(),
        token: "slow".into(),
        name: "Tortoise slow".into(),
    };
    Packing { lines: None, parcel: BOX, service: Some(service), customs: None, tracking_number: None, carrier: None }
}

/// A shipment of some units.
pub(crate) fn some(lines: &[(i32, i64)]) -> Packing {
    let units = |(line, quantity): &(i32, i64)| Units { line: *line, quantity: *quantity };
    Packing { lines: Some(lines.iter().map(units).collect()), ..everything() }
}

/// The same, by hand.
pub(crate) fn by_hand(packing: Packing) -> Packing {
    Packing { service: None, tracking_number: Some("BIKE-7".into()), carrier: Some("our bike".into()), ..packing }
}

impl TestEngine {
    /// An order that is paid.
    pub(crate) async fn paid(&self, lines: &[(SkuId, i64)]) -> OrderId {
        let souk_actors::CheckedOut::New(placed) = self.engine.checkout(basket(lines)).await.expect("it is there")
        else {
            panic!("it is new")
        };
        let provider_order_id = self.approve(placed.order_id).await;
        self.call_about(&provider_order_id).await;
        self.becomes(placed.order_id, OrderStatus::Confirmed).await;
        placed.order_id
    }

    /// What came of something that staff asked: the id of what it made.
    pub(crate) async fn ask(&self, order_id: OrderId, command: Command) -> Result<i64, Refusal> {
        self.command(order_id, command).await.map(|done| done.id)
    }

    pub(crate) async fn pack(&self, order_id: OrderId, packing: Packing) -> ShipmentId {
        ShipmentId(self.ask(order_id, Command::Pack(Box::new(packing))).await.expect("it can be packed"))
    }

    pub(crate) async fn shipment(&self, order_id: OrderId, shipment_id: ShipmentId) -> ShipmentView {
        self.engine.shipment(order_id, shipment_id).await.expect("it is there")
    }

    pub(crate) async fn shipment_becomes(&self, order_id: OrderId, shipment_id: ShipmentId, state: ShipmentState) {
        let what = format!("the shipment becomes {state}");
        self.comes_about(&what, async || self.shipment(order_id, shipment_id).await.status == state).await;
    }

    /// As above, while time passes.
    pub(crate) async fn shipment_comes_to(&self, order_id: OrderId, shipment_id: ShipmentId, state: ShipmentState) {
        self.comes_about(&format!("the shipment comes to {state}"), async || {
            self.later(chrono::TimeDelta::seconds(2));
            self.shipment(order_id, shipment_id).await.status == state
        })
        .await;
    }

    /// A shipment with its label.
    pub(crate) async fn labelled(&self, order_id: OrderId, packing: Packing) -> (ShipmentId, String) {
        let shipment_id = self.pack(order_id, packing).await;
        self.shipment_becomes(order_id, shipment_id, ShipmentState::Labelled).await;
        let number = self.shipment(order_id, shipment_id).await.tracking_number.expect("a label has a number");
        (shipment_id, number)
    }

    /// A shipment whose label is bought, and nobody here has heard so until the carrier goes on.
    pub(crate) async fn labelled_unheard(&self, order_id: OrderId) -> ShipmentId {
        self.carrier.next(Ask::Buy, Mood::HoldsReply);
        let shipment_id = self.pack(order_id, everything()).await;
        eventually("it is bought there", async || self.carrier.labels(shipment_id).len() == 1).await;
        shipment_id
    }

    /// The carrier calls about a parcel; false where it said the same before.
    pub(crate) async fn carrier_calls(&self, locator: ParcelLocator) -> bool {
        let body = serde_json::to_vec(&locator).expect("plain");
        self.engine.parcel_webhook(ParcelWebhook { carrier: "parcels", body }).await.expect("it is kept")
    }

    /// The carrier has news of a parcel by its number.
    pub(crate) async fn carrier_tells_of(&self, tracking_number: &str) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let fingerprint = format!("news-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let number = Some(tracking_number.to_owned());
        let event_type = "track_updated".to_owned();
        self.carrier_calls(ParcelLocator {
            tracking_number: number,
            fingerprint,
            event_type,
            ..ParcelLocator::default()
        })
        .await;
    }

    /// Every webhook so far has been dealt with.
    pub(crate) async fn all_heard(&self) {
        self.comes_about("every webhook is dealt with", async || {
            self.count("select count(*) from inbox where processed_at is null").await == 0
        })
        .await;
    }

    /// How often an order's timeline tells of something.
    pub(crate) async fn told(&self, order_id: OrderId, kind: &str) -> usize {
        self.timeline(order_id).await.into_iter().filter(|told| told == kind).count()
    }

    pub(crate) async fn return_state(&self, return_id: ReturnId) -> souk_actors::domain::ReturnState {
        self.engine.goods_return(return_id).await.expect("it is there").status
    }
}
