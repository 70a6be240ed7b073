//! A provider of payments in memory, with books of its own: what it charged and gave back is what it says, whatever the
//! engine believes.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use souk_actors::{
    clock::Clock,
    domain::{Money, RefundId, TaskId},
    ports::{CreatePayment, Created, Fact, FactKind, FactStatus, ListedEvent, Locator, PaymentProvider, ProviderError},
};

use super::moods::{Mood, Moods};

/// What the provider can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Create,
    Inspect,
    Capture,
    Refund,
    Authorise,
    CaptureAuthorised,
    Void,
    Disputes,
    Events,
}

/// What went back, under whose name: ours, or that of its payment.
#[derive(Debug, Clone)]
struct Refund {
    id: String,
    amount: Money,
    status: FactStatus,
    at: DateTime<Utc>,
    reference: String,
}

#[derive(Debug, Clone)]
struct Capture {
    id: String,
    amount: Money,
    status: FactStatus,
    at: DateTime<Utc>,
    refunds: Vec<Refund>,
    disputes: Vec<(String, Money, FactStatus, DateTime<Utc>)>,
}

impl Capture {
    fn new(id: String, amount: Money, status: FactStatus, at: DateTime<Utc>) -> Self {
        Self { id, amount, status, at, refunds: Vec::new(), disputes: Vec::new() }
    }

    /// What of it went back, or may have.
    fn given(&self) -> i64 {
        let counts = |status| !matches!(status, FactStatus::Failed | FactStatus::Cancelled);
        self.refunds.iter().filter(|refund| counts(refund.status)).map(|refund| refund.amount.minor).sum()
    }
}

#[derive(Debug, Clone)]
struct Authorisation {
    id: String,
    amount: Money,
    status: FactStatus,
    at: DateTime<Utc>,
}

#[derive(Debug)]
struct Order {
    reference: String,
    total: Money,
    status: FactStatus,
    at: DateTime<Utc>,
    captures: Vec<Capture>,
    authorisations: Vec<Authorisation>,
}

#[derive(Default)]
struct Books {
    orders: HashMap<String, Order>,
    created: HashMap<TaskId, String>,
    captured: HashMap<TaskId, String>,
    refunded: HashMap<TaskId, String>,
    authorised: HashMap<TaskId, String>,
    /// Its own list of events.
    listed: Vec<(DateTime<Utc>, ListedEvent)>,
    capture_as: Option<FactStatus>,
    authorise_as: Option<FactStatus>,
    refund_as: Option<FactStatus>,
    next: u32,
}

impl Books {
    fn fresh(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}{}", self.next)
    }

    fn order(&mut self, provider_order_id: &str) -> &mut Order {
        self.orders.get_mut(provider_order_id).expect("it was announced")
    }

    fn of_authorisation(&mut self, id: &str) -> (String, &mut Order, usize) {
        let at = |order: &Order| order.authorisations.iter().position(|authorisation| authorisation.id == id);
        let mut found = self.orders.iter_mut().filter_map(|(name, order)| Some((name.clone(), at(order)?, order)));
        found.next().map(|(name, at, order)| (name, order, at)).expect("it was authorised")
    }
}

pub(crate) struct FakeProvider {
    name: &'static str,
    clock: Clock,
    books: Mutex<Books>,
    moods: Moods<Op>,
}

impl FakeProvider {
    pub(crate) fn new(name: &'static str, clock: Clock) -> Self {
        Self { name, clock, books: Mutex::default(), moods: Moods::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no panic under this lock")
    }

    /// The next question of this kind is taken so.
    pub(crate) fn next(&self, op: Op, mood: Mood) {
        self.moods.next(op, mood);
    }

    /// Every question of this kind is taken so from now on.
    pub(crate) fn always(&self, op: Op, mood: Mood) {
        self.moods.always(op, mood);
    }

    /// Whoever hangs goes on.
    pub(crate) fn go_on(&self) {
        self.moods.go_on();
    }

    /// Captures come out as this.
    pub(crate) fn capture_as(&self, status: FactStatus) {
        self.books().capture_as = Some(status);
    }

    /// Authorisations come out as this.
    pub(crate) fn authorise_as(&self, status: FactStatus) {
        self.books().authorise_as = Some(status);
    }

    /// Refunds come out as this.
    pub(crate) fn refund_as(&self, status: FactStatus) {
        self.books().refund_as = Some(status);
    }

    /// Questions of this kind so far.
    pub(crate) fn calls(&self, op: Op) -> usize {
        self.moods.calls(op)
    }

    /// The buyer approves what [`Created::approve_url`] showed.
    pub(crate) fn approve(&self, approve_url: &str) -> String {
        let provider_order_id = approve_url.rsplit('/').next().expect("an url").to_owned();
        self.change(&provider_order_id, FactStatus::Approved, None);
        provider_order_id
    }

    /// The same, for another amount than was asked for.
    pub(crate) fn approve_amount(&self, approve_url: &str, total: Money) -> String {
        let provider_order_id = approve_url.rsplit('/').next().expect("an url").to_owned();
        self.change(&provider_order_id, FactStatus::Approved, Some(total));
        provider_order_id
    }

    fn change(&self, provider_order_id: &str, status: FactStatus, total: Option<Money>) {
        let at = self.clock.now();
        let mut books = self.books();
        let order = books.orders.get_mut(provider_order_id).expect("it was announced");
        (order.status, order.at) = (status, at);
        order.total = total.unwrap_or(order.total);
    }

    /// Money is taken without our asking, e.g. by hand; of any amount.
    pub(crate) fn charge(&self, provider_order_id: &str, amount: Money) -> String {
        let at = self.clock.now();
        let mut books = self.books();
        let id = books.fresh("CAP");
        let order = books.order(provider_order_id);
        (order.status, order.at) = (FactStatus::Completed, at);
        order.captures.push(Capture::new(id.clone(), amount, FactStatus::Completed, at));
        id
    }

    /// An undecided capture is decided.
    pub(crate) fn decide(&self, provider_order_id: &str, status: FactStatus) {
        let at = self.clock.now();
        let mut books = self.books();
        let order = books.orders.get_mut(provider_order_id).expect("it was announced");
        let capture = order.captures.last_mut().expect("it was captured");
        (capture.status, capture.at) = (status, at);
    }

    /// Money is given back without our asking.
    pub(crate) fn refund_by_hand(&self, provider_order_id: &str, amount: Money) {
        let at = self.clock.now();
        let mut books = self.books();
        let id = books.fresh("REF");
        let order = books.order(provider_order_id);
        let reference = order.reference.clone();
        let capture = order.captures.last_mut().expect("it was captured");
        capture.refunds.push(Refund { id, amount, status: FactStatus::Completed, at, reference });
    }

    /// Undecided refunds of an order are decided.
    pub(crate) fn decide_refunds(&self, provider_order_id: &str, status: FactStatus) {
        let now = self.clock.now();
        let mut books = self.books();
        let refunds = books.order(provider_order_id).captures.iter_mut().flat_map(|capture| &mut capture.refunds);
        for refund in refunds.filter(|refund| refund.status == FactStatus::Pending) {
            (refund.status, refund.at) = (status, now);
        }
    }

    /// The buyer disputes the last capture, or that dispute is decided.
    pub(crate) fn dispute(&self, provider_order_id: &str, status: FactStatus) {
        let now = self.clock.now();
        let mut books = self.books();
        let id = books.fresh("DIS");
        let capture = books.order(provider_order_id).captures.last_mut().expect("it was captured");
        match capture.disputes.last_mut() {
            Some((_, _, state, at)) => (*state, *at) = (status, now),
            None => capture.disputes.push((id, capture.amount, status, now)),
        }
    }

    /// A dispute about a part of the last capture is lost.
    pub(crate) fn lose(&self, provider_order_id: &str, amount: Money) {
        let now = self.clock.now();
        let mut books = self.books();
        let id = books.fresh("DIS");
        let capture = books.order(provider_order_id).captures.last_mut().expect("it was captured");
        capture.disputes.push((id, amount, FactStatus::Lost, now));
    }

    /// What was reserved changes without our asking.
    pub(crate) fn decide_authorisation(&self, provider_order_id: &str, status: FactStatus) {
        let at = self.clock.now();
        let mut books = self.books();
        let authorisation = books.order(provider_order_id).authorisations.last_mut().expect("it was authorised");
        (authorisation.status, authorisation.at) = (status, at);
    }

    /// What is reserved at the provider and was not let go.
    pub(crate) fn reserved(&self) -> i64 {
        let books = self.books();
        let all = books.orders.values().flat_map(|order| &order.authorisations);
        all.filter(|one| one.status == FactStatus::Created).map(|one| one.amount.minor).sum()
    }

    /// It remembers no request id any more.
    pub(crate) fn forget(&self) {
        let mut books = self.books();
        books.refunded.clear();
        books.captured.clear();
        books.authorised.clear();
    }

    /// An event that it lists and never delivers.
    pub(crate) fn list(&self, event_id: &str, locator: &Locator) {
        let at = self.clock.now();
        let body = serde_json::to_vec(locator).expect("plain");
        self.books().listed.push((at, ListedEvent { event_id: event_id.to_owned(), body }));
    }

    /// Ids of the provider's orders for a payment, by its reference.
    pub(crate) fn order_of(&self, payment_id: &str) -> Option<String> {
        let books = self.books();
        books.orders.iter().find(|(_, order)| order.reference == payment_id).map(|(id, _)| id.clone())
    }

    /// What it took and what it gave back, of everybody together.
    pub(crate) fn money(&self) -> (i64, i64) {
        let books = self.books();
        let captures =
            || books.orders.values().flat_map(|order| &order.captures).filter(|c| c.status == FactStatus::Completed);
        let taken = captures().map(|capture| capture.amount.minor).sum();
        let given = captures().map(Capture::given).sum();
        (taken, given)
    }

    /// What it gave back, also of what was taken back later.
    pub(crate) fn given(&self) -> i64 {
        let books = self.books();
        books.orders.values().flat_map(|order| &order.captures).map(Capture::given).sum()
    }

    /// How often it charged.
    pub(crate) fn charges(&self) -> usize {
        self.books().orders.values().map(|order| order.captures.len()).sum()
    }
}

fn facts(id: &str, order: &Order) -> Vec<Fact> {
    let fact = |kind, object_id: &str, status, amount, parent: Option<&str>, at| Fact {
        kind,
        object_id: object_id.to_owned(),
        status,
        amount: Some(amount),
        reference: Some(order.reference.clone()),
        parent: parent.map(str::to_owned),
        at,
    };
    let mut facts = vec![fact(FactKind::Order, id, order.status, order.total, None, order.at)];
    for capture in &order.captures {
        facts.push(fact(FactKind::Capture, &capture.id, capture.status, capture.amount, None, capture.at));
        for Refund { id, amount, status, at, reference } in &capture.refunds {
            let refund = fact(FactKind::Refund, id, *status, *amount, Some(&capture.id), *at);
            facts.push(Fact { reference: Some(reference.clone()), ..refund });
        }
    }
    for one in &order.authorisations {
        facts.push(fact(FactKind::Authorisation, &one.id, one.status, one.amount, None, one.at));
    }
    facts
}

#[async_trait]
impl PaymentProvider for FakeProvider {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn create(&self, wish: &CreatePayment) -> Result<Created, ProviderError> {
        let reply = self.moods.take(Op::Create).await?;
        let at = self.clock.now();
        let provider_order_id = {
            let mut books = self.books();
            let next = books.created.len() + 1;
            let id = books.created.entry(wish.request_id).or_insert_with(|| format!("PO{next}")).clone();
            books.orders.entry(id.clone()).or_insert_with(|| Order {
                reference: wish.payment_id.to_string(),
                total: wish.total,
                status: FactStatus::Created,
                at,
                captures: Vec::new(),
                authorisations: Vec::new(),
            });
            id
        };
        let approve_url = format!("https://pay.example/approve/{provider_order_id}");
        reply.carry(Created { provider_order_id, approve_url }).await
    }

    async fn inspect(&self, provider_order_id: &str) -> Result<Vec<Fact>, ProviderError> {
        let reply = self.moods.take(Op::Inspect).await?;
        let found = self.books().orders.get(provider_order_id).map(|order| facts(provider_order_id, order));
        let found = found.ok_or_else(|| ProviderError::Dead("no such order".to_owned()))?;
        reply.carry(found).await
    }

    async fn capture(&self, request_id: TaskId, provider_order_id: &str) -> Result<Vec<Fact>, ProviderError> {
        let reply = self.moods.take(Op::Capture).await?;
        let at = self.clock.now();
        let found = {
            let mut books = self.books();
            if !books.captured.contains_key(&request_id) {
                books.next += 1;
                let (id, status) = (format!("CAP{}", books.next), books.capture_as.unwrap_or(FactStatus::Completed));
                let order = books.orders.get_mut(provider_order_id).expect("it was announced");
                if order.status != FactStatus::Approved {
                    let done = order.captures.iter().any(|capture| capture.status == FactStatus::Completed);
                    return Err(if done {
                        ProviderError::AlreadyDone("it was charged before".to_owned())
                    } else {
                        ProviderError::NotYet("it is not approved".to_owned())
                    });
                }
                (order.status, order.at) = (FactStatus::Completed, at);
                order.captures.push(Capture::new(id.clone(), order.total, status, at));
                books.captured.insert(request_id, id);
            }
            facts(provider_order_id, &books.orders[provider_order_id])
        };
        reply.carry(found).await
    }

    async fn refund(
        &self,
        request_id: TaskId,
        refund_id: RefundId,
        capture_id: &str,
        amount: Money,
    ) -> Result<Vec<Fact>, ProviderError> {
        let reply = self.moods.take(Op::Refund).await?;
        let at = self.clock.now();
        let found = {
            let mut books = self.books();
            books.next += 1;
            let fresh = format!("REF{}", books.next);
            let known = books.refunded.get(&request_id).cloned();
            let status = books.refund_as.unwrap_or(FactStatus::Completed);
            let id = known.clone().unwrap_or(fresh);
            books.refunded.insert(request_id, id.clone());
            let has = |order: &Order| order.captures.iter().any(|capture| capture.id == capture_id);
            let (order_id, order) = books.orders.iter_mut().find(|(_, order)| has(order)).expect("it was captured");
            let capture = order.captures.iter_mut().find(|capture| capture.id == capture_id).expect("just found");
            if known.is_none() {
                if capture.given() + amount.minor > capture.amount.minor {
                    return Err(ProviderError::AlreadyDone("nothing is left of it".to_owned()));
                }
                let reference = refund_id.to_string();
                capture.refunds.push(Refund { id: id.clone(), amount, status, at, reference });
            }
            facts(order_id, order).into_iter().filter(|fact| fact.object_id == id).collect()
        };
        reply.carry(found).await
    }

    async fn authorise(&self, request_id: TaskId, provider_order_id: &str) -> Result<Vec<Fact>, ProviderError> {
        let reply = self.moods.take(Op::Authorise).await?;
        let at = self.clock.now();
        let found = {
            let mut books = self.books();
            if !books.authorised.contains_key(&request_id) {
                let (id, status) = (books.fresh("AUTH"), books.authorise_as.unwrap_or(FactStatus::Created));
                let order = books.order(provider_order_id);
                if order.status != FactStatus::Approved {
                    return Err(ProviderError::NotYet("it is not approved".to_owned()));
                }
                (order.status, order.at) = (FactStatus::Completed, at);
                order.authorisations.push(Authorisation { id: id.clone(), amount: order.total, status, at });
                books.authorised.insert(request_id, id);
            }
            facts(provider_order_id, &books.orders[provider_order_id])
        };
        reply.carry(found).await
    }

    async fn capture_authorised(
        &self,
        request_id: TaskId,
        authorisation_id: &str,
        amount: Money,
        _last: bool,
    ) -> Result<Vec<Fact>, ProviderError> {
        let reply = self.moods.take(Op::CaptureAuthorised).await?;
        let now = self.clock.now();
        let found = {
            let mut books = self.books();
            let (known, id) = (books.captured.contains_key(&request_id), books.fresh("CAP"));
            let status = books.capture_as.unwrap_or(FactStatus::Completed);
            books.captured.entry(request_id).or_insert_with(|| id.clone());
            let (name, order, at) = books.of_authorisation(authorisation_id);
            let authorisation = &mut order.authorisations[at];
            if !known {
                if authorisation.status != FactStatus::Created {
                    return Err(ProviderError::Dead("it is reserved no more".to_owned()));
                }
                (authorisation.status, authorisation.at) = (FactStatus::Completed, now);
                order.captures.push(Capture::new(id, amount, status, now));
            }
            facts(&name, order)
        };
        reply.carry(found).await
    }

    async fn void(&self, _: TaskId, authorisation_id: &str) -> Result<Vec<Fact>, ProviderError> {
        let reply = self.moods.take(Op::Void).await?;
        let now = self.clock.now();
        let found = {
            let mut books = self.books();
            let (name, order, at) = books.of_authorisation(authorisation_id);
            let authorisation = &mut order.authorisations[at];
            if authorisation.status == FactStatus::Completed {
                return Err(ProviderError::AlreadyDone("it was captured".to_owned()));
            }
            (authorisation.status, authorisation.at) = (FactStatus::Voided, now);
            facts(&name, order)
        };
        reply.carry(found).await
    }

    async fn disputes(&self, capture_id: &str) -> Result<Vec<Fact>, ProviderError> {
        let reply = self.moods.take(Op::Disputes).await?;
        let found = {
            let books = self.books();
            let captures = books.orders.values().flat_map(|order| &order.captures);
            let disputes = captures.filter(|capture| capture.id == capture_id).flat_map(|capture| &capture.disputes);
            let fact = |(id, amount, status, at): &(String, Money, FactStatus, DateTime<Utc>)| Fact {
                kind: FactKind::Dispute,
                object_id: id.clone(),
                status: *status,
                amount: Some(*amount),
                reference: None,
                parent: Some(capture_id.to_owned()),
                at: *at,
            };
            disputes.map(fact).collect()
        };
        reply.carry(found).await
    }

    async fn events(&self, since: DateTime<Utc>, until: DateTime<Utc>) -> Result<Vec<ListedEvent>, ProviderError> {
        let reply = self.moods.take(Op::Events).await?;
        let listed = self
            .books()
            .listed
            .iter()
            .filter(|(at, _)| *at >= since && *at <= until)
            .map(|(_, event)| event.clone())
            .collect();
        reply.carry(listed).await
    }

    fn locate(&self, body: &[u8]) -> Locator {
        serde_json::from_slice(body).unwrap_or_default()
    }
}
