//! The courier: carries events to the merchant, signed, a few at a time, and again until they are answered with a 2xx.
//!
//! An event enters the queue in the same step as the change that causes it, and leaves for the merchant as soon as that
//! change is on disk: at about the time when the call itself is answered, sometimes before. Order is not guaranteed.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{CONTENT_TYPE, USER_AGENT};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    bank::{Bank, Shared},
    books::{Books, Change},
    clock, events,
    faults::Trick,
    forge, ids,
    records::{Attempt, Delivery, DeliveryState, Event},
    signing,
};

/// How many deliveries are under way at once.
const IN_FLIGHT: usize = 64;
/// How long the merchant may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Courier {
    queue: Mutex<Queue>,
    more: Notify,
    slots: Arc<Semaphore>,
    client: reqwest::Client,
}

/// What is due, by time; the number keeps apart what is due at the same moment. Its limit is the number of events.
#[derive(Default)]
struct Queue {
    due: BTreeMap<(DateTime<Utc>, u64), Parcel>,
    numbers: u64,
    /// Taken out of `due`, and not done with.
    under_way: usize,
    held: bool,
}

struct Parcel {
    transmission_id: String,
    /// The line of the journal that must be on disk before anybody hears of this.
    line: u64,
    answered: Option<oneshot::Sender<()>>,
}

/// What is carried, and what came of it.
struct Outcome {
    answer: Result<reqwest::StatusCode, String>,
    fault: Option<Trick>,
}

impl Courier {
    pub(super) fn new() -> io::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(IN_FLIGHT)
            .timeout(PATIENCE)
            .build()
            .map_err(io::Error::other)?;
        let slots = Arc::new(Semaphore::new(IN_FLIGHT));
        Ok(Self { queue: Mutex::default(), more: Notify::new(), slots, client })
    }

    /// Takes a delivery that is due, now or later.
    pub(super) fn accept(&self, delivery: &Delivery, line: u64) {
        self.push(delivery, line, None);
    }

    /// The same, and tells when it was answered; unless deliveries are held, for then that may never be.
    pub(super) fn accept_early(&self, delivery: &Delivery, line: u64) -> Option<oneshot::Receiver<()>> {
        let (tell, answered) = oneshot::channel();
        self.push(delivery, line, Some(tell));
        (!self.locked().held).then_some(answered)
    }

    fn push(&self, delivery: &Delivery, line: u64, answered: Option<oneshot::Sender<()>>) {
        let DeliveryState::Due(at) = delivery.state else { return };
        let mut queue = self.locked();
        queue.numbers += 1;
        let place = (at, queue.numbers);
        queue.due.insert(place, Parcel { transmission_id: delivery.transmission_id.clone(), line, answered });
        drop(queue);
        self.more.notify_one();
    }

    /// From now on nothing is delivered.
    pub(super) fn hold(&self) {
        self.locked().held = true;
    }

    fn resume(&self) {
        self.locked().held = false;
        self.more.notify_one();
    }

    /// Whether deliveries are held, how many wait, and how many are under way.
    pub(super) fn state(&self) -> (bool, usize, usize) {
        let queue = self.locked();
        (queue.held, queue.due.len(), queue.under_way)
    }

    /// Whether nothing is under way and nothing would be taken up now.
    fn is_settled(&self, now: DateTime<Utc>) -> bool {
        let queue = self.locked();
        queue.under_way == 0 && queue.next_due().is_none_or(|at| at > now)
    }

    fn next_due(&self) -> Option<DateTime<Utc>> {
        self.locked().next_due()
    }

    fn next(&self, now: DateTime<Utc>) -> Option<Parcel> {
        let mut queue = self.locked();
        if queue.held { None } else { queue.pop(now) }
    }

    fn done(&self) {
        self.locked().under_way -= 1;
    }

    fn take_due(&self, now: DateTime<Utc>) -> Vec<Parcel> {
        let mut queue = self.locked();
        std::iter::from_fn(|| queue.pop(now)).collect()
    }

    fn locked(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it holds the queue")
    }
}

impl Queue {
    fn next_due(&self) -> Option<DateTime<Utc>> {
        let (at, _) = self.due.keys().next().filter(|_| !self.held)?;
        Some(*at)
    }

    fn pop(&mut self, now: DateTime<Utc>) -> Option<Parcel> {
        let first = self.due.first_entry().filter(|first| first.key().0 <= now)?;
        self.under_way += 1;
        Some(first.remove())
    }
}

/// Delivers until the sandbox stops; what is under way then is delivered again by the next one.
pub(super) async fn run(bank: Shared) {
    loop {
        let more = bank.courier.more.notified();
        while let Some(parcel) = bank.courier.next(bank.clock.now()) {
            let slot = Arc::clone(&bank.courier.slots).acquire_owned().await.expect("the slots are never closed");
            tokio::spawn(deliver_unless_stopped(Arc::clone(&bank), parcel, slot));
        }
        tokio::select! {
            () = more => {}
            () = bank.clock.until(bank.courier.next_due()) => {}
            () = bank.stopped() => return,
        }
    }
}

async fn deliver_unless_stopped(bank: Shared, parcel: Parcel, _slot: OwnedSemaphorePermit) {
    tokio::select! {
        () = deliver(&bank, parcel) => {}
        () = bank.stopped() => {}
    }
}

/// In which order held deliveries are let go.
#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Sequence {
    /// One after the other, each answered before the next is sent.
    Given,
    /// The same, last first.
    Reversed,
    /// The same, in an order that the seed decides.
    Shuffled,
    /// As if they had never been held: many at once.
    Parallel,
}

/// Lets go of what was held, returns when each was tried once, and then holds nothing any more.
pub(super) async fn release(bank: &Bank, sequence: Sequence, seed: u32) -> usize {
    let mut parcels = match sequence {
        Sequence::Parallel => Vec::new(),
        Sequence::Given | Sequence::Reversed | Sequence::Shuffled => bank.courier.take_due(bank.clock.now()),
    };
    match sequence {
        Sequence::Given | Sequence::Parallel => {}
        Sequence::Reversed => parcels.reverse(),
        Sequence::Shuffled => shuffle(&mut parcels, seed),
    }
    let count = parcels.len();
    for parcel in parcels {
        deliver(bank, parcel).await;
    }
    bank.courier.resume();
    count
}

/// Fisher–Yates with a hash for dice: the same seed gives the same order.
fn shuffle<T>(items: &mut [T], seed: u32) {
    for last in (1..items.len()).rev() {
        let throw = crc32fast::hash(format!("{seed}/{last}").as_bytes()) as usize;
        items.swap(last, throw % (last + 1));
    }
}

/// Returns when nothing is due and nothing is under way, or after the limit; says which.
pub(super) async fn settle(bank: &Bank, limit: Duration) -> bool {
    let settled = async {
        while !bank.courier.is_settled(bank.clock.now()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(limit, settled).await.is_ok()
}

/// Tries once, and tells whoever waits for it.
async fn deliver(bank: &Bank, parcel: Parcel) {
    if bank.saved(parcel.line).await.is_ok() {
        attempt(bank, &parcel.transmission_id).await;
    }
    bank.courier.done();
    if let Some(answered) = parcel.answered {
        let _nobody_waits = answered.send(());
    }
}

/// What is carried, and where to.
struct Letter {
    delivery: Arc<Delivery>,
    event: Arc<Event>,
    url: String,
    webhook_id: String,
}

/// Tries once, and writes down what came of it.
async fn attempt(bank: &Bank, transmission_id: &str) {
    let found = bank.look(|books| {
        let delivery = Arc::clone(books.deliveries.get(transmission_id)?);
        let event = Arc::clone(books.events.get(&delivery.event_id)?);
        Some((address(bank, books, &delivery), delivery, event))
    });
    let Some((address, delivery, event)) = found else { return };
    let Some((webhook_id, url)) = address else {
        bank.note(Change::delivery(Delivery { state: DeliveryState::GivenUp, ..(*delivery).clone() }));
        return;
    };
    let now = bank.clock.now();
    let letter = Letter { delivery, event, url, webhook_id };
    let outcomes = carry(bank, &letter, bank.faults.trick(&letter.event.event_type)).await;
    bank.note(Change::delivery(written_down(bank, &letter.delivery, outcomes, now)));
}

/// The webhook's id, and where it is now; nothing, if it was deleted.
fn address(bank: &Bank, books: &Books, delivery: &Delivery) -> Option<(String, String)> {
    let webhook_id = delivery.webhook_id.clone().unwrap_or_else(|| bank.settings.webhook_id.clone());
    if let Some(url) = &delivery.url {
        return Some((webhook_id, url.clone()));
    }
    let webhook = bank.webhooks(books).into_iter().find(|webhook| webhook.id == webhook_id)?;
    Some((webhook_id, webhook.url))
}

/// Sends it once, or as often as a scripted fault says.
async fn carry(bank: &Bank, letter: &Letter, fault: Option<Trick>) -> Vec<Outcome> {
    let times = match fault {
        Some(Trick::Drop) => 0,
        Some(Trick::Duplicate) => 2,
        Some(_) | None => 1,
    };
    if let Some(Trick::Delay { ms }) = fault {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    if fault == Some(Trick::DuplicateNew) {
        let mut change = Change::default();
        change.announce(events::again(&bank.base, &letter.event, bank.clock.now()));
        bank.note(change);
    }
    let mut outcomes = Vec::new();
    for _ in 0..times {
        outcomes.push(Outcome { answer: send(bank, letter, fault).await, fault });
    }
    outcomes
}

/// The delivery with what was tried just now, and with what follows from that.
fn written_down(bank: &Bank, delivery: &Delivery, outcomes: Vec<Outcome>, at: DateTime<Utc>) -> Delivery {
    let mut delivery = delivery.clone();
    let dropped = outcomes.is_empty();
    let accepted = outcomes.iter().any(|outcome| outcome.answer.as_ref().is_ok_and(reqwest::StatusCode::is_success));
    let retry = bank.settings.retry.get(delivery.attempts.len());
    delivery.attempts.extend(outcomes.into_iter().map(|outcome| outcome.written_down(at)));
    delivery.state = match retry {
        _ if dropped => DeliveryState::Dropped,
        _ if accepted => DeliveryState::Delivered,
        Some(pause) => DeliveryState::Due(bank.clock.now() + TimeDelta::from_std(*pause).unwrap_or(TimeDelta::MAX)),
        None => DeliveryState::GivenUp,
    };
    delivery
}

impl Outcome {
    fn written_down(self, at: DateTime<Utc>) -> Attempt {
        let answer = match self.answer {
            Ok(status) => status.as_u16().to_string(),
            Err(error) => error,
        };
        let fault = self.fault.and_then(|fault| Some(serde_json::to_value(fault).ok()?["kind"].as_str()?.to_owned()));
        Attempt { at, answer, fault }
    }
}

/// Signs and posts, rightly or as the fault has it.
async fn send(bank: &Bank, letter: &Letter, fault: Option<Trick>) -> Result<reqwest::StatusCode, String> {
    let Letter { delivery, event, .. } = letter;
    let original = event.body.get();
    let first = delivery.certificate.as_deref().and_then(|name| bank.authority.genuine_of(name));
    let signer = match fault {
        Some(Trick::ForeignCa) => Arc::clone(&bank.authority.foreign),
        Some(Trick::ExpiredCert) => Arc::clone(&bank.authority.expired),
        Some(_) | None => first.unwrap_or_else(|| bank.authority.genuine()),
    };
    let webhook_id = if fault == Some(Trick::WrongWebhookId) { "8PT597110X687430LKGECATA" } else { &letter.webhook_id };
    let time = clock::stamp(delivery.created);
    let message = signing::message(&delivery.transmission_id, &time, webhook_id, original.as_bytes());
    let signature = match fault {
        Some(Trick::BadSignature) => bank.authority.foreign.sign(&message),
        Some(_) | None => signer.sign(&message),
    };
    let body = match fault {
        Some(Trick::Tamper) => forge::tampered(original),
        Some(Trick::SameCrc) => forge::same_crc(original, &forge::tampered(original)),
        Some(_) | None => original.to_owned(),
    };
    let request = bank
        .courier
        .client
        .post(&letter.url)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, "PayPal/AUHD-214.0-58268937")
        .header("CORRELATION-ID", ids::debug())
        .header("PAYPAL-AUTH-ALGO", "SHA256withRSA")
        .header("PAYPAL-AUTH-VERSION", "v2")
        .header("PAYPAL-CERT-URL", certificate_url(bank, &signer.name, fault))
        .header("PAYPAL-TRANSMISSION-ID", &delivery.transmission_id)
        .header("PAYPAL-TRANSMISSION-TIME", time)
        .header("PAYPAL-TRANSMISSION-SIG", signature);
    match request.body(body).send().await {
        Ok(response) => {
            let status = response.status();
            drop(response.bytes().await); // read to its end, so that the connection can be used again
            Ok(status)
        }
        Err(error) => Err(error.to_string()),
    }
}

fn certificate_url(bank: &Bank, name: &str, fault: Option<Trick>) -> String {
    let port = bank.base.rsplit(':').next().unwrap_or_default();
    let host = if fault == Some(Trick::OffListCert) { format!("http://localhost:{port}") } else { bank.base.clone() };
    format!("{host}/v1/notifications/certs/{name}")
}
