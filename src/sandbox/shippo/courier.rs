//! Shippo's courier: carries events to the URLs that want them. An answer is expected within three seconds; 408, 429,
//! 5xx and silence are tried twice more, and any other answer is final.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac};
use reqwest::{StatusCode, header::CONTENT_TYPE};
use sha2::Sha256;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use url::Url;

use super::{
    books::{Change, Delivery},
    faults::Trick,
    office::{Desk, Office},
};
use crate::sandbox::{
    books::{Attempt, DeliveryState},
    webhooks::{Sequence, shuffle},
};

/// How many deliveries are under way at once.
const IN_FLIGHT: usize = 16;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
const SIGNATURE: &str = "Shippo-Auth-Signature";

pub(super) struct Courier {
    queue: Mutex<Queue>,
    more: Notify,
    slots: Arc<Semaphore>,
    client: reqwest::Client,
}

/// What is due, by time; the number keeps apart what is due at the same moment.
#[derive(Default)]
struct Queue {
    due: BTreeMap<(DateTime<Utc>, u64), Parcel>,
    numbers: u64,
    /// Taken out of `due`, and not done with.
    under_way: usize,
    held: bool,
}

struct Parcel {
    delivery: String,
    /// The line of the journal that must be on disk before anybody hears of this.
    line: u64,
    answered: Option<oneshot::Sender<()>>,
}

impl Courier {
    pub(super) fn new() -> io::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
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
        queue.due.insert(place, Parcel { delivery: delivery.id.clone(), line, answered });
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
pub(in crate::sandbox) async fn run(desk: Desk) {
    loop {
        let more = desk.courier.more.notified();
        while let Some(parcel) = desk.courier.next(desk.now()) {
            let slot = Arc::clone(&desk.courier.slots).acquire_owned().await.expect("the slots are never closed");
            tokio::spawn(deliver_unless_stopped(Arc::clone(&desk), parcel, slot));
        }
        tokio::select! {
            () = more => {}
            () = desk.house.clock.until(desk.courier.next_due()) => {}
            () = desk.house.stopped() => return,
        }
    }
}

async fn deliver_unless_stopped(desk: Desk, parcel: Parcel, _slot: OwnedSemaphorePermit) {
    tokio::select! {
        () = deliver(&desk, parcel) => {}
        () = desk.house.stopped() => {}
    }
}

/// Lets go of what was held, returns when each was tried once, and then holds nothing any more.
pub(super) async fn release(office: &Office, sequence: Sequence, seed: u32) -> usize {
    let mut parcels = match sequence {
        Sequence::Parallel => Vec::new(),
        Sequence::Given | Sequence::Reversed | Sequence::Shuffled => office.courier.take_due(office.now()),
    };
    match sequence {
        Sequence::Given | Sequence::Parallel => {}
        Sequence::Reversed => parcels.reverse(),
        Sequence::Shuffled => shuffle(&mut parcels, seed),
    }
    let count = parcels.len();
    for parcel in parcels {
        deliver(office, parcel).await;
    }
    office.courier.resume();
    count
}

/// Returns when nothing is due and nothing is under way, or after the limit; says which.
pub(super) async fn settle(office: &Office, limit: Duration) -> bool {
    let settled = async {
        while !office.courier.is_settled(office.now()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(limit, settled).await.is_ok()
}

/// Tries once, and tells whoever waits for it.
async fn deliver(office: &Office, parcel: Parcel) {
    if office.saved(parcel.line).await.is_ok()
        && let Some(delivery) = office.look(|books| books.deliveries.get(&parcel.delivery).cloned())
    {
        attempt(office, &delivery).await;
    }
    office.courier.done();
    if let Some(answered) = parcel.answered {
        let _nobody_waits = answered.send(());
    }
}

/// Tries once, or as often as a scripted fault says, and writes down what came of it.
async fn attempt(office: &Office, delivery: &Delivery) {
    let at = office.now();
    let trick = office.faults.trick(&delivery.event);
    let times = match trick {
        Some(Trick::Drop) => 0,
        Some(Trick::Duplicate) => 2,
        Some(_) | None => 1,
    };
    if let Some(Trick::Delay { ms }) = trick {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    let mut answers = Vec::new();
    for _ in 0..times {
        let message = Message::of(office, delivery, trick);
        answers.push(message.send(office).await);
    }
    let mut delivery = delivery.clone();
    delivery.state = verdict(office, &delivery, &answers);
    delivery.attempts.extend(answers.into_iter().map(|answer| written_down(answer, trick, at)));
    office.note(&Change::delivery(delivery));
}

/// What follows from these answers.
fn verdict(office: &Office, delivery: &Delivery, answers: &[Result<StatusCode, String>]) -> DeliveryState {
    let Some(last) = answers.last() else { return DeliveryState::Dropped };
    if answers.iter().flatten().any(StatusCode::is_success) {
        return DeliveryState::Delivered;
    }
    let again = match last {
        Ok(status) => *status == 408 || *status == 429 || status.is_server_error(),
        Err(_) => true,
    };
    match office.settings.retry.get(delivery.attempts.len()) {
        Some(pause) if again => {
            DeliveryState::Due(office.now() + TimeDelta::from_std(*pause).unwrap_or(TimeDelta::MAX))
        }
        Some(_) | None => DeliveryState::GivenUp,
    }
}

fn written_down(answer: Result<StatusCode, String>, trick: Option<Trick>, at: DateTime<Utc>) -> Attempt {
    let answer = answer.map_or_else(|error| error, |status| status.as_u16().to_string());
    let fault = trick.and_then(|trick| Some(serde_json::to_value(trick).ok()?["kind"].as_str()?.to_owned()));
    Attempt { at, answer, fault }
}

/// What is posted, rightly or wrongly.
pub(super) struct Message {
    pub(super) url: String,
    pub(super) body: String,
    pub(super) signature: Option<String>,
}

impl Message {
    fn of(office: &Office, delivery: &Delivery, trick: Option<Trick>) -> Self {
        let original = delivery.body.get();
        let now = office.now().timestamp();
        let signed_at = if trick == Some(Trick::Stale) { now - 3600 } else { now };
        let secret = office.knobs().webhook_secret.filter(|_| trick != Some(Trick::Unsigned));
        let secret =
            secret.map(|secret| if trick == Some(Trick::WrongSecret) { format!("not {secret}") } else { secret });
        let url = &delivery.url;
        Self {
            url: if trick == Some(Trick::WrongToken) { with_token(url, Some("wrong")) } else { url.clone() },
            body: if trick == Some(Trick::Tamper) { tampered(original) } else { original.to_owned() },
            signature: secret.map(|secret| sign(&secret, signed_at, original)),
        }
    }

    pub(super) async fn send(self, office: &Office) -> Result<StatusCode, String> {
        let mut request = office.courier.client.post(self.url).header(CONTENT_TYPE, "application/json");
        if let Some(signature) = self.signature {
            request = request.header(SIGNATURE, signature);
        }
        match request.body(self.body).send().await {
            Ok(response) => {
                let status = response.status();
                drop(response.bytes().await); // read to its end, so that the connection can be used again
                Ok(status)
            }
            // without its URL, which may hold a token
            Err(error) => Err(error.without_url().to_string()),
        }
    }
}

/// `t=<unix>,v1=<hex>`: HMAC-SHA256 of `{t}.{body}`.
pub(super) fn sign(secret: &str, at: i64, body: &str) -> String {
    format!("t={at},v1={}", hmac_hex(secret, &format!("{at}.{body}")))
}

pub(super) fn hmac_hex(secret: &str, message: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The URL with another token in it, or without one.
pub(super) fn with_token(url: &str, token: Option<&str>) -> String {
    let Ok(mut changed) = Url::parse(url) else { return url.to_owned() };
    let others: Vec<(String, String)> = changed
        .query_pairs()
        .filter(|(name, _)| name != "token")
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    changed.query_pairs_mut().clear().extend_pairs(others).extend_pairs(token.map(|token| ("token", token)));
    changed.to_string()
}

/// The same event about a parcel that has arrived.
fn tampered(body: &str) -> String {
    let mut event: serde_json::Value = serde_json::from_str(body).expect("the sandbox wrote it");
    for status in ["/data/tracking_status/status", "/data/status"] {
        if let Some(status) = event.pointer_mut(status) {
            *status = if *status == "DELIVERED" { "RETURNED".into() } else { "DELIVERED".into() };
        }
    }
    event["test"] = false.into();
    event.to_string()
}
