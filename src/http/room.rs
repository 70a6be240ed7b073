//! The waiting room of a sale: joining, and how it goes on.

use axum::{Json, http::HeaderMap, response::Response};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use souk_actors::{
    InLine, RoomView,
    domain::{LineState, SaleId, Ticket},
};

use tokio::sync::watch;

use super::{
    State,
    extract::{Id, Query, within},
    sse,
};
use crate::{
    problem::{Answer, Problem},
    shop::{
        Shop,
        room::{self, Secret},
    },
};

/// Where a client shows the session that its ticket is bound to.
const SESSION: &str = "souk-session";
/// Where it shows the ticket when it buys.
const TICKET: &str = "souk-ticket";

/// A ticket, and where it stands.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Joined {
    /// Shown as `?ticket=` to hear where it stands, and as the header `Souk-Ticket` of the checkout.
    ticket: String,
    /// The secret that the ticket is bound to: shown as the header `Souk-Session`, to join again and to buy.
    session: String,
    #[serde(flatten)]
    place: Place,
}

/// Where a ticket stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct Place {
    #[schema(value_type = String)]
    sale_id: SaleId,
    /// `before_start`: places are drawn when the sale starts. `waiting`; `admitted`: buy, until `admitted_until`. `lapsed`:
    /// the turn went by, join again. `used`: an order was placed with it. `sold_out`: nothing is left and nothing can come
    /// back. `over`: the sale has ended, or has no waiting room any more: then buy without a ticket.
    state: &'static str,
    /// 1 is next; only while waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<i64>,
    /// About how long that takes, by the pace so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_wait_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admitted_until: Option<DateTime<Utc>>,
    /// Units of the sale that can be had now.
    available: i64,
    /// Units of it that unpaid orders hold: as their holds lapse, those who wait come next.
    may_return: i64,
}

impl Place {
    fn of(sale_id: SaleId, view: &RoomView) -> Self {
        let state = room::state(view);
        let waiting = state == "waiting";
        let (position, admitted_until) = match view.standing {
            LineState::Waiting { ahead } if waiting => (Some(ahead + 1), None),
            LineState::Admitted { until } => (None, Some(until)),
            LineState::Waiting { .. } | LineState::BeforeTheDraw | LineState::Used | LineState::Lapsed => (None, None),
        };
        Self {
            sale_id,
            state,
            position,
            estimated_wait_seconds: view.wait.filter(|_| waiting).map(|wait| wait.num_seconds()),
            admitted_until,
            available: view.outlook.available,
            may_return: view.outlook.may_return,
        }
    }
}

/// Which ticket is asked about.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asked {
    /// As it was given on joining.
    ticket: String,
}

/// Join the waiting room of a sale. Before the start everybody who joins gets a random place, drawn when the sale starts;
/// after it first come is first served. The same session gets the same ticket, in however many tabs and however often.
#[utoipa::path(
    post, path = "/v1/sales/{sale_id}/room", tag = "checkout",
    params(
        ("sale_id" = String, Path),
        ("Souk-Session" = Option<String>, Header, description = "A secret of 22 to 128 characters that the client keeps; \
            left out, one is made")
    ),
    responses(
        (status = 200, body = Joined), (status = 404, body = Problem, description = "No such sale, none with a waiting room"),
        (status = 422, body = Problem), (status = 503, body = Problem, description = "`busy`: very many wait already")
    )
)]
pub(crate) async fn join(
    axum::extract::State(shop): State,
    Id(sale_id): Id<SaleId>,
    headers: HeaderMap,
) -> Answer<Json<Joined>> {
    let session = session(&headers)?.unwrap_or_else(Secret::fresh);
    let joined = tokio::time::timeout(shop.limits.timeout, room::join(&shop, sale_id, &session));
    let (ticket, sealed) = joined.await.map_err(|_| Problem::outcome_unknown())??;
    let place = place(&shop, ticket).await?;
    Ok(Json(Joined { ticket: sealed, session: session.expose().to_owned(), place }))
}

/// Where a ticket stands.
#[utoipa::path(
    get, path = "/v1/sales/{sale_id}/room", tag = "checkout", params(("sale_id" = String, Path), Asked),
    responses(
        (status = 200, body = Place), (status = 403, body = Problem, description = "`ticket_invalid`"),
        (status = 404, body = Problem)
    )
)]
pub(crate) async fn show(
    axum::extract::State(shop): State,
    Id(sale_id): Id<SaleId>,
    Query(asked): Query<Asked>,
) -> Answer<Json<Place>> {
    let ticket = room::read(&shop, sale_id, &asked.ticket)?;
    Ok(Json(place(&shop, ticket).await?))
}

/// Where a ticket stands, as it changes: server-sent events `place`. Who is admitted hears so, and when nothing is left and
/// nothing can come back everybody does. It ends with the sale, mostly with the word `over`; otherwise when the shop stops:
/// then connect again.
#[utoipa::path(
    get, path = "/v1/sales/{sale_id}/room/stream", tag = "checkout", params(("sale_id" = String, Path), Asked),
    responses(
        (status = 200, body = Place, content_type = "text/event-stream"),
        (status = 403, body = Problem, description = "`ticket_invalid`"), (status = 404, body = Problem),
        (status = 503, body = Problem, description = "`busy`: too many listen already: poll instead")
    )
)]
pub(crate) async fn stream(
    axum::extract::State(shop): State,
    Id(sale_id): Id<SaleId>,
    Query(asked): Query<Asked>,
) -> Answer<Response> {
    let listener = shop.live.place()?;
    let ticket = room::read(&shop, sale_id, &asked.ticket)?;
    let places = places(&shop, ticket).await?;
    Ok(sse::answer(places.take_until(shop.live.stopping()), listener))
}

/// The ticket that a checkout shows, if it shows one.
pub(super) fn shown(shop: &Shop, headers: &HeaderMap) -> Answer<Option<Ticket>> {
    let Some(sealed) = headers.get(TICKET) else { return Ok(None) };
    let session = session(headers)?;
    room::own(shop, sealed.to_str().unwrap_or_default(), session.as_ref()).map(Some)
}

fn session(headers: &HeaderMap) -> Answer<Option<Secret>> {
    let text = headers.get(SESSION).map(|value| value.to_str().unwrap_or_default());
    Ok(text.map(str::parse).transpose()?)
}

async fn place(shop: &Shop, ticket: Ticket) -> Answer<Place> {
    let in_line = within(shop.limits.timeout, shop.engine.in_line(ticket)).await?;
    Ok(Place::of(ticket.sale_id, &in_line.view()))
}

/// Every other place that a ticket comes to have, the newest: what changes for others only is not told. It ends with the sale.
async fn places(shop: &Shop, ticket: Ticket) -> Answer<impl Stream<Item = Bytes> + Send + use<>> {
    let in_line = within(shop.limits.timeout, shop.engine.in_line(ticket)).await?;
    let mut news = in_line.news();
    news.mark_changed();
    let places = stream::unfold((in_line, news, None), move |(in_line, mut news, before)| async move {
        if before.is_some() {
            tokio::time::sleep(room::pace(in_line.listeners())).await;
        }
        let told = other(&in_line, &mut news, ticket.sale_id, before.as_ref()).await?;
        Some((event(&told.place), (in_line, news, Some(told))))
    });
    Ok(places)
}

/// What a listener was told last.
struct Told {
    place: Place,
    /// The sale was over by then: who has bought is told no other word for it.
    over: bool,
}

/// The next place that is another than before; none when there is nothing more to come.
async fn other(
    in_line: &InLine,
    news: &mut watch::Receiver<u64>,
    sale_id: SaleId,
    before: Option<&Told>,
) -> Option<Told> {
    if before.is_some_and(|before| before.over) {
        return None;
    }
    loop {
        news.changed().await.ok()?;
        let view = in_line.view();
        let (place, over) = (Place::of(sale_id, &view), view.outlook.over);
        if before.is_none_or(|before| before.place != place) {
            return Some(Told { place, over });
        }
        if over {
            return None;
        }
    }
}

fn event(place: &Place) -> Bytes {
    let data = serde_json::to_string(place).unwrap_or_default();
    format!("event: place\ndata: {data}\n\n").into()
}
