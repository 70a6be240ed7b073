#![doc = include_str!("../README.md")]

// What is sold and how it may change, as values and pure functions.
pub mod domain;

// What the engine asks of the world: payments, time, and faults that tests inject.
pub mod clock;
mod context;
pub(crate) mod error;
pub mod faults;
pub mod ports;

// The sales that are coming or running; a SKU's book and the promises from it, shared by its actor and whoever holds one;
// and who listens to its stock.
mod listeners;
mod sales;
mod shelf;

// Calls to an outside party: who may have one made, a queue, a limit, a breaker.
mod calls;

// The engine's SQL, who is to hear of what, which checkouts are retries, and the journal that alone writes.
mod flights;
pub mod journal;
mod news;
mod retries;
pub mod store;

// Where actors are found, and what happens when they crash.
mod directory;
mod supervision;

// The actors, one file each, and the saga that brings them together.
mod checkout;
mod importer;
mod order;
mod outbox;
mod payment;
mod reconciler;
mod room;
mod shipping;
mod sku;

// The door.
mod engine;

pub use checkout::{Checkout, Placed, PricedLine};
pub use context::ReturnUrls;
pub use directory::Node;
pub use engine::{
    Adjust, CheckedOut, Engine, Import, Imported, Made, ParcelWebhook, Resubscribe, Retry, Selling, Settings,
    Subscribe, Webhook,
};
pub use listeners::Listening;
pub use order::CommandKey;
pub use room::{InLine, Outlook, RoomView, Session};
