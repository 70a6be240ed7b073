//! What buyers and their providers ask.

use std::collections::HashMap;

use super::Engine;
use crate::{
    checkout::{Checkout, Outcome, Placed},
    domain::{Command, Commanded, Counters, Invalid, OrderId, OrderStatus, Refusal, ShortLine, SkuId, Who},
    error,
    flights::Boarding,
    listeners::Listening,
    order::{CommandKey, Msg},
    store::{
        inbox::{self, InboxRow},
        load,
        read::{self, EventView, OrderView},
    },
};

/// How a checkout ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckedOut {
    /// A new order.
    New(Placed),
    /// The order that this key had placed before.
    Replayed(OrderId),
}

/// A verified webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// From whom.
    pub provider: &'static str,
    /// The provider's id of the event.
    pub event_id: String,
    /// The provider's id of the delivery, which is what its signature covers.
    pub transmission_id: String,
    /// As it came.
    pub body: Vec<u8>,
}

/// What a retry of a checkout is known by.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Whose key: a member, or a guest.
    pub principal: String,
    /// The client's idempotency key.
    pub key: String,
    /// SHA-256 of everything the client asked for.
    pub fingerprint: [u8; 32],
    /// The buyer's address, normalised.
    pub email: String,
}

impl Retry {
    fn of(checkout: &Checkout) -> Self {
        Self {
            principal: checkout.principal.clone(),
            key: checkout.key.clone(),
            fingerprint: checkout.fingerprint,
            email: checkout.email.as_str().to_owned(),
        }
    }
}

impl Engine {
    /// Places an order: its lines are held and it is in Postgres, or nothing has happened. The same key again finds the
    /// same order.
    ///
    /// # Errors
    /// Any [`Refusal`]; after [`Refusal::Unknown`] the same key tells.
    pub async fn checkout(&self, checkout: Checkout) -> Result<CheckedOut, Refusal> {
        checkout.check()?;
        if let Some(provider) = &checkout.payment {
            self.takes(provider)?;
        }
        self.serving()?;
        let retries = &self.context.retries;
        if let Some(short) = self.sold_out(&checkout)
            && !retries.may_be(&checkout.principal, &checkout.key, checkout.email.as_str())
        {
            return Err(Refusal::OutOfStock(short));
        }
        let retry = Retry::of(&checkout);
        let flight = loop {
            match self.flights.board(&retry.principal, &retry.key, retry.fingerprint)? {
                Boarding::First(flight) => break flight,
                Boarding::Behind(mut other) => {
                    other.changed().await.ok(); // ends with its sender
                    if let Some(order_id) = self.placed_before(&retry).await? {
                        return Ok(CheckedOut::Replayed(order_id));
                    }
                }
            }
        };
        let permit = self.admit()?;
        // a key that was used fails the batch that it comes in: the journal takes it out, but is not to be asked for that
        if retries.knows_key(&retry.principal, &retry.key)
            && let Some(order_id) = self.placed_before(&retry).await?
        {
            return Ok(CheckedOut::Replayed(order_id));
        }
        match self.checkouts.begin(checkout, flight, permit).await {
            Ok(Outcome::Placed(placed)) => Ok(CheckedOut::New(placed)),
            Ok(Outcome::KeyTaken) => {
                let before = self.used(&retry.principal, &retry.key, "checkout", &retry.fingerprint).await?;
                before.map(|id| CheckedOut::Replayed(OrderId(id))).ok_or(Refusal::Fault)
            }
            // the order that this key has placed may be why there is nothing left
            Err(
                refusal @ (Refusal::OutOfStock(_)
                | Refusal::Invalid(_)
                | Refusal::Ticket(_)
                | Refusal::LimitReached { .. }
                | Refusal::OfferChanged { .. }
                | Refusal::SaleNotStarted { .. }),
            ) => self.placed_before(&retry).await?.map(CheckedOut::Replayed).ok_or(refusal),
            Err(refusal) => Err(refusal),
        }
    }

    /// The lines of which not enough is left, where that is known of every line in memory: nobody is woken for it.
    fn sold_out(&self, checkout: &Checkout) -> Option<Vec<ShortLine>> {
        let mut short = Vec::new();
        for line in &checkout.lines {
            let buying = checkout.buying(line);
            if let Err(available) = self.actors.skus.short_of(line.sku_id, line.quantity, buying)? {
                short.push(ShortLine { sku_id: line.sku_id, requested: line.quantity, available });
            }
        }
        short.sort_unstable_by_key(|line| line.sku_id);
        Some(short).filter(|short| !short.is_empty())
    }

    /// The order that a checkout has placed with its key, if it has. Postgres is asked only where it may have.
    ///
    /// # Errors
    /// [`Refusal::KeyReused`] where the key was used for something else.
    pub async fn placed_before(&self, retry: &Retry) -> Result<Option<OrderId>, Refusal> {
        if !self.context.retries.may_be(&retry.principal, &retry.key, &retry.email) {
            return Ok(None);
        }
        let used = self.used(&retry.principal, &retry.key, "checkout", &retry.fingerprint).await?;
        Ok(used.map(OrderId))
    }

    pub(super) async fn used(
        &self,
        principal: &str,
        key: &str,
        route: &str,
        fingerprint: &[u8; 32],
    ) -> Result<Option<i64>, Refusal> {
        let used = load::used(&self.context.pool, principal, key).await.map_err(|error| error::refusal(&error))?;
        let Some(used) = used else { return Ok(None) };
        if used.route != route || used.fingerprint != fingerprint {
            return Err(Refusal::KeyReused);
        }
        Ok(Some(used.ref_id))
    }

    /// Opens a payment of an order, or finds the open one; answers with the page where the buyer approves it.
    ///
    /// # Errors
    /// [`Refusal::NotNow`] where there is nothing to pay; the caller bounds the time it waits for the provider.
    pub async fn pay(&self, order_id: OrderId, provider: &str) -> Result<String, Refusal> {
        self.takes(provider)?;
        self.serving()?;
        let provider = provider.to_owned();
        self.actors.orders.0.ask(order_id, |reply| Msg::Pay { provider, reply }).await
    }

    pub(super) fn takes(&self, provider: &str) -> Result<(), Invalid> {
        let taken = self.context.providers.contains_key(provider);
        if taken { Ok(()) } else { Err(Invalid::new("provider", "is not one that this shop takes")) }
    }

    /// The buyer's browser is back from the provider, which proves nothing: the provider is asked.
    pub async fn look(&self, order_id: OrderId) {
        self.actors.orders.tell(order_id, Msg::Look).await;
    }

    /// Calls an order off as a whole: a buyer only before any of it is on its way. A second cancel finds it cancelled.
    ///
    /// # Errors
    /// [`Refusal::NotNow`] once it is over, or on its way.
    pub async fn cancel(&self, order_id: OrderId, who: Who) -> Result<OrderStatus, Refusal> {
        self.serving()?;
        self.actors.orders.0.ask(order_id, |reply| Msg::Cancel { who, reply }).await
    }

    /// Asks something of a placed order. The same key again finds what it made.
    ///
    /// # Errors
    /// Any [`Refusal`]; after [`Refusal::Unknown`] the same key tells.
    pub async fn command(
        &self,
        order_id: OrderId,
        command: Command,
        who: Who,
        key: CommandKey,
    ) -> Result<Commanded, Refusal> {
        self.serving()?;
        if let Some(before) = self.commanded_before(&key).await? {
            return Ok(before);
        }
        match self.ask_order(order_id, command.clone(), who, key.clone()).await {
            Ok(commanded) => Ok(commanded),
            // the same key on its way twice: one that came to nothing after all gives it back
            Err(Refusal::KeyReused) => match self.commanded_before(&key).await? {
                Some(before) => Ok(before),
                None => self.ask_order(order_id, command, who, key).await,
            },
            // what it has made may be why it is refused now
            Err(refusal @ (Refusal::NotNow { .. } | Refusal::RefundExceeds { .. } | Refusal::Invalid(_))) => {
                self.commanded_before(&key).await?.ok_or(refusal)
            }
            Err(refusal) => Err(refusal),
        }
    }

    async fn ask_order(
        &self,
        order_id: OrderId,
        command: Command,
        who: Who,
        key: CommandKey,
    ) -> Result<Commanded, Refusal> {
        self.actors.orders.0.ask(order_id, |reply| Msg::Command { command, who, key, reply }).await
    }

    async fn commanded_before(&self, key: &CommandKey) -> Result<Option<Commanded>, Refusal> {
        let used = self.used(&key.principal, &key.key, CommandKey::ROUTE, &key.fingerprint).await?;
        Ok(used.map(|id| Commanded { id, replayed: true }))
    }

    /// An order as committed.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn order(&self, order_id: OrderId) -> Result<OrderView, Refusal> {
        let found = read::order(&self.context.pool, order_id).await.map_err(|error| error::refusal(&error))?;
        found.ok_or(Refusal::NotFound("order"))
    }

    /// An order's timeline: all of it for staff, else what of it is for the buyer.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn events(&self, order_id: OrderId, for_staff: bool) -> Result<Vec<EventView>, Refusal> {
        let events = read::events(&self.context.pool, order_id, for_staff).await;
        let events = events.map_err(|error| error::refusal(&error))?;
        if events.is_empty() { Err(Refusal::NotFound("order")) } else { Ok(events) }
    }

    /// What can be sold of each SKU, as committed: from its actor's memory where it has one, else from Postgres. SKUs
    /// without stock are left out.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn available(&self, sku_ids: &[SkuId]) -> Result<HashMap<SkuId, i64>, Refusal> {
        let mut known: HashMap<SkuId, i64> = HashMap::with_capacity(sku_ids.len());
        let mut unknown = Vec::new();
        for sku_id in sku_ids {
            match self.actors.skus.committed(*sku_id) {
                Some(counters) => drop(known.insert(*sku_id, counters.available())),
                None => unknown.push(sku_id.0),
            }
        }
        if !unknown.is_empty() {
            let loaded = load::counters(&self.context.pool, &unknown).await.map_err(|error| error::refusal(&error))?;
            known.extend(loaded.into_iter().map(|(sku_id, counters)| (SkuId(sku_id), counters.available())));
        }
        Ok(known)
    }

    /// A SKU's counters as committed: from its actor's memory where it has one, else from Postgres.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn stock(&self, sku_id: SkuId) -> Result<Counters, Refusal> {
        match self.actors.skus.committed(sku_id) {
            Some(counters) => Ok(counters),
            None => self.counters(sku_id).await,
        }
    }

    /// Listens to a SKU's counters: heard first is what they are now. No actor is woken or kept awake by it.
    ///
    /// # Errors
    /// As [`Engine::stock`].
    pub async fn listen(&self, sku_id: SkuId) -> Result<Listening, Refusal> {
        // before anybody is asked: what is committed meanwhile is heard
        let mut listening = self.context.listeners.listen(sku_id);
        self.context.listeners.tell(sku_id, self.stock(sku_id).await?);
        listening.hear_again();
        Ok(listening)
    }

    /// Keeps a verified webhook, durably; what it means is found out after the answer. False: it was here before.
    ///
    /// # Errors
    /// [`Refusal::Away`], and the provider sends it again.
    pub async fn webhook(&self, webhook: Webhook) -> Result<bool, Refusal> {
        let provider = self.context.providers.get(webhook.provider).ok_or(Refusal::NotFound("provider"))?;
        let locator = provider.locate(&webhook.body);
        let now = self.context.clock.now();
        let row = InboxRow {
            provider: webhook.provider,
            event_id: &webhook.event_id,
            transmission_id: &webhook.transmission_id,
            event_type: &locator.event_type,
            body: &webhook.body,
        };
        let inbox_id =
            inbox::store(&self.context.pool, &row, &locator, now).await.map_err(|error| error::refusal(&error))?;
        let Some(inbox_id) = inbox_id else { return Ok(false) };
        self.context.faults.hit("inbox.stored", "");
        self.actors.payments.signal(webhook.provider, inbox_id, locator).await;
        Ok(true)
    }
}
