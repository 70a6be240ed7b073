//! The one place that turns an error into HTTP: RFC 9457 problem+json with a stable `code`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use souk_actors::domain::{Invalid, RefundLimit, Refusal, TicketFault};

/// What a client is told instead of an answer. Codes are stable; titles and details are for people.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// `about:blank`: the code says what it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The HTTP status, again.
    status: u16,
    /// What to branch on, e.g. `out_of_stock`.
    code: &'static str,
    /// The kind of problem, for a person.
    title: &'static str,
    /// This very problem, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Whatever this code brings along, e.g. `lines`.
    #[serde(flatten)]
    more: Map<String, Value>,
    #[serde(skip)]
    retry_after: Option<u64>,
}

/// What handlers return.
pub type Answer<T> = Result<T, Problem>;

impl Problem {
    /// A problem with nothing more to say than its code.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, title: &'static str) -> Self {
        Self {
            kind: "about:blank",
            status: status.as_u16(),
            code,
            title,
            detail: None,
            more: Map::new(),
            retry_after: None,
        }
    }

    /// Says more, for a person.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Says more, for a program.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        self.more.insert(name.to_owned(), json!(value));
        self
    }

    /// Says when to ask again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// No such thing, or none that the asker may know of.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found").detail(format!("There is no such {what}."))
    }

    /// A value is not what it should be.
    #[must_use]
    pub fn invalid(invalid: &Invalid) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Invalid request")
            .detail(invalid.to_string())
            .with("field", &invalid.field)
    }

    /// A ticket that does not let its holder buy.
    fn ticket(fault: TicketFault) -> Self {
        let (status, title) = match fault {
            TicketFault::Required => (StatusCode::FORBIDDEN, "This sale has a waiting room: join it first"),
            TicketFault::Invalid => (StatusCode::FORBIDDEN, "Not a ticket of this sale and this session"),
            TicketFault::NotAdmitted => (StatusCode::CONFLICT, "The turn of this ticket has not come"),
            TicketFault::Used => (StatusCode::CONFLICT, "An order was placed with this ticket"),
            TicketFault::Expired => (StatusCode::CONFLICT, "The turn of this ticket is over: join again"),
        };
        Self::new(status, fault.as_str(), title)
    }

    /// Nobody knows yet how it ended.
    #[must_use]
    pub fn outcome_unknown() -> Self {
        Refusal::Unknown.into()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        use StatusCode as Status;
        let said = refusal.to_string();
        let retry = refusal.retry_after().map(|after| after.as_secs().max(1));
        let problem = match refusal {
            Refusal::Invalid(invalid) => Self::invalid(&invalid),
            Refusal::OutOfStock(lines) => {
                Self::new(Status::CONFLICT, "out_of_stock", "Not enough stock").with("lines", lines)
            }
            Refusal::NotFound(what) => Self::not_found(what),
            Refusal::KeyReused => {
                Self::new(Status::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "Idempotency key reused").detail(said)
            }
            Refusal::NotNow { status, .. } => Self::new(Status::CONFLICT, "order_state", "Not possible in this state")
                .detail(said)
                .with("order_status", status),
            Refusal::BelowReserved { available } => Self::new(Status::CONFLICT, "below_reserved", "Stock is reserved")
                .detail(said)
                .with("available", available),
            Refusal::StockChanged { on_hand } => {
                Self::new(Status::CONFLICT, "stock_changed", "Stock has changed").detail(said).with("on_hand", on_hand)
            }
            Refusal::RefundExceeds { limit, left } => {
                let code = match limit {
                    RefundLimit::Captured => "refund_exceeds_captured",
                    RefundLimit::Line => "refund_exceeds_line",
                    RefundLimit::Shipping => "refund_exceeds_shipping",
                };
                Self::new(Status::CONFLICT, code, "More than can go back").detail(said).with("left", left)
            }
            Refusal::SaleNotStarted { sku_id, sale_id, starts_at } => {
                Self::new(Status::CONFLICT, "sale_not_started", "Not sold yet")
                    .detail(said)
                    .with("sku_id", sku_id)
                    .with("sale_id", sale_id)
                    .with("starts_at", starts_at)
            }
            Refusal::LimitReached { sku_id, sale_id, limit, used } => {
                Self::new(Status::CONFLICT, "limit_reached", "No more for this customer")
                    .detail(said)
                    .with("sku_id", sku_id)
                    .with("sale_id", sale_id)
                    .with("limit", limit)
                    .with("used", used)
            }
            Refusal::OfferChanged { sku_id } => Self::new(Status::CONFLICT, "quote_changed", "The price has changed")
                .detail(said)
                .with("sku_id", sku_id),
            Refusal::SaleOverlaps { sku_id, sale_id } => {
                Self::new(Status::CONFLICT, "sale_overlaps", "In another sale at that time")
                    .detail(said)
                    .with("sku_id", sku_id)
                    .with("sale_id", sale_id)
            }
            Refusal::BelowSold { sku_id, sold } => Self::new(Status::CONFLICT, "below_sold", "More is sold")
                .detail(said)
                .with("sku_id", sku_id)
                .with("sold", sold),
            Refusal::Ticket(fault) => Self::ticket(fault),
            Refusal::SaleState { phase, .. } => Self::new(Status::CONFLICT, "sale_state", "Not possible in this state")
                .detail(said)
                .with("phase", phase),
            Refusal::Busy => Self::new(Status::SERVICE_UNAVAILABLE, "busy", "Too busy").detail(said),
            Refusal::Away(_) => {
                Self::new(Status::SERVICE_UNAVAILABLE, "unavailable", "Not available right now").detail(said)
            }
            Refusal::Unknown => Self::new(Status::SERVICE_UNAVAILABLE, "outcome_unknown", "No answer yet")
                .detail("It may have been done. Ask again with the same Idempotency-Key."),
            Refusal::Superseded => {
                Self::new(Status::SERVICE_UNAVAILABLE, "superseded", "Served elsewhere").detail(said)
            }
            Refusal::Fault => Self::new(Status::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        };
        Self { retry_after: retry, ..problem }
    }
}

impl From<TicketFault> for Problem {
    fn from(fault: TicketFault) -> Self {
        Self::ticket(fault)
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self::invalid(&invalid)
    }
}

impl From<sqlx::Error> for Problem {
    /// A failed read of the shop's own records; logged here, once.
    fn from(error: sqlx::Error) -> Self {
        souk_actors::store::refusal(&error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.detail.as_deref().unwrap_or(self.title))
    }
}
