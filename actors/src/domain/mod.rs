//! What a shop is made of, without clock, disk or wire: every type here is a value, every decision a pure function.

pub(crate) mod buyers_view;
mod command;
mod draft;
mod fact;
mod ids;
mod import;
mod money;
pub(crate) mod notice;
mod order;
mod parcel;
mod payment;
mod refusal;
mod returns;
mod room;
mod sale;
mod shipment;
mod stock;
mod text;
mod words;

pub mod change;

pub use command::{Command, Commanded, Inspected, Packing, RefundWish, ReturnStep, Wanted};
pub use draft::{Draft, Funds};
pub use fact::{Created, Fact, FactKind, FactStatus, Locator, ProviderError};
pub use ids::{
    EventSeq, IdError, ImportId, NoticeId, OrderId, PaymentId, ProductId, RefundId, ReturnId, SaleId, ShipmentId,
    SkuId, SubscriptionId, TaskId,
};
pub use import::{
    BadLine, Correction, ImportLine, ImportMode, ImportState, ImportView, LineProblem, MOST_UNITS, rehearse,
};
pub use money::{Currency, Money, MoneyError};
pub use notice::{Channel, MAILED, NoticeState, Subscription};
pub use order::{
    About, Fulfilment, NextStep, Order, OrderStatus, Part, PartState, PaymentSummary, Policy, Restock, Task, Who,
};
pub use parcel::{
    ChosenShipping, Customs, CustomsItem, Label, LabelStatus, Parcel, Service, Tracking, TrackingStatus, Void,
};
pub use payment::{
    Capture, Intent, Payment, PaymentEvent, PaymentState, Refund, RefundKind, RefundState, Standing, TaskKind,
    TaskState, Units,
};
pub use refusal::{RefundLimit, Refusal, ShortLine};
pub use returns::{Return, ReturnLine, ReturnState};
pub use room::{Call, Draw, LineState, Room, RoomRules, Sessions, Ticket, TicketFault};
pub use sale::{
    Customer, NewSale, NoShare, Offer, Sale, SaleChange, SaleItem, SalePhase, SaleShare, Sold, Tally, Used,
};
pub use shipment::{Shipment, ShipmentEvent, ShipmentLine, ShipmentState};
pub use stock::{Book, Counters, Short};
pub use text::{Address, Email, Invalid, Quantity, clean, printable};
pub(crate) use words::words;
