//! A carrier in memory, with books of its own: what labels it sold and gave back, and where its parcels are, is what it
//! says, whatever the engine believes.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use souk_actors::{
    clock::Clock,
    domain::{Money, ShipmentId},
    ports::{
        BuyLabel, Carrier, Label, LabelFile, LabelStatus, ParcelLocator, ProviderError, Tracking, TrackingStatus, Void,
    },
};

use super::moods::{Mood, Moods};

/// What the carrier can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ask {
    Buy,
    Find,
    Look,
    Void,
    File,
    Track,
}

#[derive(Default)]
struct Books {
    /// Every label ever made, in order, and whose.
    labels: Vec<(ShipmentId, Label)>,
    tracks: HashMap<String, Vec<Tracking>>,
    buy_as: Option<LabelStatus>,
    void_as: Option<Void>,
    files_move: bool,
}

pub(crate) struct FakeCarrier {
    name: &'static str,
    clock: Clock,
    books: Mutex<Books>,
    moods: Moods<Ask>,
}

impl FakeCarrier {
    pub(crate) fn new(name: &'static str, clock: Clock) -> Self {
        Self { name, clock, books: Mutex::default(), moods: Moods::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no panic under this lock")
    }

    /// The next question of this kind is taken so.
    pub(crate) fn next(&self, ask: Ask, mood: Mood) {
        self.moods.next(ask, mood);
    }

    /// Whoever hangs goes on.
    pub(crate) fn go_on(&self) {
        self.moods.go_on();
    }

    /// Labels come out as this.
    pub(crate) fn buy_as(&self, status: LabelStatus) {
        self.books().buy_as = Some(status);
    }

    /// Wishes for a label's money are answered so.
    pub(crate) fn void_as(&self, void: Void) {
        self.books().void_as = Some(void);
    }

    /// Addresses of label files that were told so far have ended.
    pub(crate) fn move_files(&self) {
        self.books().files_move = true;
    }

    /// A label that is being bought is decided on.
    pub(crate) fn decide(&self, label_id: &str, status: LabelStatus) {
        let mut books = self.books();
        let label = books.labels.iter_mut().find(|(_, label)| label.label_id == label_id);
        label.expect("it was bought").1.status = status;
    }

    /// Questions of this kind so far.
    pub(crate) fn calls(&self, ask: Ask) -> usize {
        self.moods.calls(ask)
    }

    /// Every label of a shipment that costs money.
    pub(crate) fn live_labels(&self, shipment_id: ShipmentId) -> Vec<Label> {
        let books = self.books();
        let live = |label: &Label| matches!(label.status, LabelStatus::Queued | LabelStatus::Bought);
        books
            .labels
            .iter()
            .filter(|(of, label)| *of == shipment_id && live(label))
            .map(|(_, own)| own.clone())
            .collect()
    }

    /// Every label of a shipment that was ever sold.
    pub(crate) fn labels(&self, shipment_id: ShipmentId) -> Vec<Label> {
        self.books().labels.iter().filter(|(of, _)| *of == shipment_id).map(|(_, own)| own.clone()).collect()
    }

    /// A label is sold without our asking, or by a request that nobody waits for any more.
    pub(crate) fn sell(&self, shipment_id: ShipmentId) -> Label {
        let mut books = self.books();
        let number = books.labels.len() + 1;
        let status = books.buy_as.clone().unwrap_or(LabelStatus::Bought);
        let label = Label {
            label_id: format!("LBL{number}"),
            status,
            carrier: Some("tortoise".to_owned()),
            tracking_number: Some(format!("TRK{number}")),
            tracking_url: Some(format!("https://track.example/TRK{number}")),
            file_url: Some(format!("https://files.example/1/LBL{number}.pdf")),
            cost: Some(Money::new(725, "USD".parse().expect("known"))),
        };
        books.labels.push((shipment_id, label.clone()));
        label
    }

    /// The parcel is seen somewhere, `minutes` from now by the carrier's clock.
    pub(crate) fn scan(&self, tracking_number: &str, status: TrackingStatus, minutes: i64) {
        self.scan_as(tracking_number, status, None, minutes);
    }

    pub(crate) fn scan_as(&self, tracking_number: &str, status: TrackingStatus, substatus: Option<&str>, minutes: i64) {
        let at = self.clock.now() + chrono::TimeDelta::minutes(minutes);
        let details = format!("it is {status}");
        let fact = Tracking { status, substatus: substatus.map(str::to_owned), details, at };
        self.books().tracks.entry(tracking_number.to_owned()).or_default().push(fact);
    }

    fn label(&self, label_id: &str) -> Result<Label, ProviderError> {
        let books = self.books();
        let found = books.labels.iter().find(|(_, label)| label.label_id == label_id);
        found.map(|(_, label)| label.clone()).ok_or_else(|| ProviderError::Dead("no such label".to_owned()))
    }
}

#[async_trait]
impl Carrier for FakeCarrier {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn buy(&self, wish: &BuyLabel) -> Result<Label, ProviderError> {
        let reply = self.moods.take(Ask::Buy).await?;
        let label = self.sell(wish.shipment_id);
        reply.carry(label).await
    }

    async fn find(&self, shipment_id: ShipmentId) -> Result<Vec<Label>, ProviderError> {
        let reply = self.moods.take(Ask::Find).await?;
        let mut found = self.labels(shipment_id);
        found.retain(|label| !matches!(label.status, LabelStatus::Failed(_)));
        reply.carry(found).await
    }

    async fn look(&self, label_id: &str) -> Result<Label, ProviderError> {
        let reply = self.moods.take(Ask::Look).await?;
        let mut label = self.label(label_id)?;
        if self.books().files_move {
            label.file_url = Some(format!("https://files.example/2/{label_id}.pdf"));
        }
        reply.carry(label).await
    }

    async fn void(&self, label_id: &str) -> Result<Void, ProviderError> {
        let reply = self.moods.take(Ask::Void).await?;
        let void = self.books().void_as.unwrap_or(Void::Done);
        let status = match void {
            Void::Pending => LabelStatus::Voiding,
            Void::Done => LabelStatus::Voided,
            Void::Rejected => LabelStatus::VoidRejected,
        };
        self.decide(label_id, status);
        reply.carry(void).await
    }

    async fn file(&self, url: &str) -> Result<LabelFile, ProviderError> {
        let reply = self.moods.take(Ask::File).await?;
        if self.books().files_move && url.contains("/1/") {
            return Err(ProviderError::Rejected("the address has ended".to_owned()));
        }
        let file = LabelFile { content_type: "application/pdf".to_owned(), bytes: b"%PDF \0 a label".to_vec() };
        reply.carry(file).await
    }

    async fn track(&self, _: &str, tracking_number: &str) -> Result<Vec<Tracking>, ProviderError> {
        let reply = self.moods.take(Ask::Track).await?;
        let found = self.books().tracks.get(tracking_number).cloned().unwrap_or_default();
        reply.carry(found).await
    }

    fn locate(&self, body: &[u8]) -> ParcelLocator {
        serde_json::from_slice(body).unwrap_or_default()
    }
}
