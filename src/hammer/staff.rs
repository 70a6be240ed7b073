//! What a run asks as staff: shelves to sell from before it, and what has become of everything after it.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::said;
use crate::gateways::Secret;

/// Rows of one page.
const PAGE: usize = 100;
/// How long a shop may be away: it may have been killed a moment ago.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(250);
/// How long one question may take; the audit of a large shop does.
const QUESTION: Duration = Duration::from_secs(120);

/// Why staff do not get what they ask for, for a person.
pub type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// A shop, as its staff reach it.
#[derive(Clone)]
pub struct Staff {
    client: Client,
    url: String,
    token: Secret,
}

/// Something to put on a shelf.
#[derive(Debug, Clone)]
pub struct Good {
    /// The shop's own code.
    pub code: String,
    /// In cents.
    pub price: u64,
    /// Units.
    pub on_hand: u64,
}

/// A SKU's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Stock {
    /// Units that are there.
    pub on_hand: i64,
    /// Units of those that belong to orders.
    pub reserved: i64,
}

/// A move of stock.
#[derive(Debug, Clone, Deserialize)]
pub struct Row {
    /// Later ones are larger.
    pub id: i64,
    /// Units that came.
    pub d_on_hand: i64,
    /// Units that were reserved.
    pub d_reserved: i64,
    /// `reserve`, `release`, …
    pub cause: String,
    /// For which order.
    pub order_id: Option<String>,
}

/// An order in staff's list.
#[derive(Debug, Clone, Deserialize)]
pub struct Order {
    /// Its id.
    pub order_id: String,
    /// E.g. `confirmed`.
    pub status: String,
    /// Its buyer's address.
    pub email: String,
}

/// A sentence of the audit that is not true.
#[derive(Debug, Clone, Deserialize)]
pub struct Finding {
    /// The check's name.
    pub check: String,
    /// What should be true.
    pub sentence: String,
    /// Where it is not.
    pub rows: Vec<String>,
}

#[derive(Deserialize)]
struct LedgerPage {
    stock: Stock,
    rows: Vec<Row>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct OrdersPage {
    orders: Vec<Order>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Audit {
    findings: Vec<Finding>,
}

impl Staff {
    /// `url` is the shop's, without a slash at its end.
    ///
    /// # Errors
    /// There is no client to be had.
    pub fn new(url: &str, token: Secret) -> Result<Self, Trouble> {
        let client = Client::builder().no_proxy().timeout(QUESTION).build()?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// Puts goods on the shelf, so many of them a product; their ids, in the same order.
    ///
    /// # Errors
    /// The shop does not want them.
    pub async fn put_on_sale(&self, name: &str, goods: &[Good], each: usize) -> Result<Vec<String>, Trouble> {
        let mut sku_ids = Vec::with_capacity(goods.len());
        for (at, goods) in goods.chunks(each).enumerate() {
            let sku = |good: &Good| {
                let price = format!("{}.{:02}", good.price / 100, good.price % 100);
                json!({ "code": good.code, "price": price, "on_hand": good.on_hand })
            };
            let skus: Vec<Value> = goods.iter().map(sku).collect();
            let product = json!({ "name": format!("{name} {}", at + 1), "currency": "USD", "skus": skus });
            let request = self.request(Method::POST, "/v1/admin/products").json(&product);
            let made: Value = self.read(request).await?;
            let ids = made["skus"].as_array().into_iter().flatten().filter_map(|sku| sku["sku_id"].as_str());
            sku_ids.extend(ids.map(str::to_owned));
        }
        if sku_ids.len() == goods.len() { Ok(sku_ids) } else { Err("the shop has not made all SKUs".into()) }
    }

    /// A SKU's counters, and the newest row of its ledger.
    ///
    /// # Errors
    /// There is no such SKU, or the shop stays away.
    pub async fn stock(&self, sku_id: &str) -> Result<(Stock, i64), Trouble> {
        let page: LedgerPage = self.get(&format!("/v1/admin/skus/{sku_id}/ledger?limit=1")).await?;
        Ok((page.stock, page.rows.first().map_or(0, |row| row.id)))
    }

    /// A SKU's counters, and what has moved since a row of its ledger, the newest first.
    ///
    /// # Errors
    /// As [`Staff::stock`].
    pub async fn moves(&self, sku_id: &str, since: i64) -> Result<(Stock, Vec<Row>), Trouble> {
        let (mut cursor, mut counters, mut moves) = (String::new(), None, Vec::new());
        loop {
            let page: LedgerPage = self.get(&format!("/v1/admin/skus/{sku_id}/ledger?limit={PAGE}{cursor}")).await?;
            let stock = *counters.get_or_insert(page.stock);
            let known = page.rows.iter().any(|row| row.id <= since);
            moves.extend(page.rows.into_iter().filter(|row| row.id > since));
            match page.next_cursor {
                Some(next) if !known => cursor = format!("&cursor={next}"),
                Some(_) | None => return Ok((stock, moves)),
            }
        }
    }

    /// The newest order.
    ///
    /// # Errors
    /// The shop stays away.
    pub async fn newest_order(&self) -> Result<Option<String>, Trouble> {
        let page: OrdersPage = self.get("/v1/admin/orders?limit=1").await?;
        Ok(page.orders.into_iter().next().map(|order| order.order_id))
    }

    /// Every order that is newer than `since`, the newest first.
    ///
    /// # Errors
    /// The shop stays away.
    pub async fn orders(&self, since: Option<&str>, mut each: impl FnMut(Order)) -> Result<(), Trouble> {
        let mut cursor = String::new();
        loop {
            let page: OrdersPage = self.get(&format!("/v1/admin/orders?limit={PAGE}{cursor}")).await?;
            for order in page.orders {
                if since == Some(&order.order_id) {
                    return Ok(());
                }
                each(order);
            }
            let Some(next) = page.next_cursor else { return Ok(()) };
            cursor = format!("&cursor={next}");
        }
    }

    /// An order as its buyer sees it, or none: it does not open.
    ///
    /// # Errors
    /// The shop stays away.
    pub async fn as_buyer(&self, order_id: &str, token: &str) -> Result<Option<Value>, Trouble> {
        let path = format!("/v1/orders/{order_id}?token={token}");
        let request = || self.client.get(format!("{}{path}", self.url));
        let (status, body) = self.patiently(request).await?;
        if status.is_client_error() {
            return Ok(None);
        }
        Ok(Some(understand(status, &body)?))
    }

    /// Which sentences about the shop's books are not true.
    ///
    /// # Errors
    /// The shop stays away.
    pub async fn audit(&self) -> Result<Vec<Finding>, Trouble> {
        Ok(self.get::<Audit>("/v1/ops/audit").await?.findings)
    }

    /// Whether the shop serves, now.
    ///
    /// # Errors
    /// It does not.
    pub async fn knock(&self) -> Result<(), Trouble> {
        self.read::<Value>(self.request(Method::GET, "/readyz")).await.map(drop)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(self.token.expose())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        let (status, body) = self.patiently(|| self.request(Method::GET, path)).await?;
        understand(status, &body)
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Trouble> {
        let answer = request.send().await.map_err(|_| self.nobody())?;
        understand(answer.status(), &answer.bytes().await?)
    }

    /// Asks a question again while the shop is away: it changes nothing.
    async fn patiently(&self, question: impl Fn() -> RequestBuilder) -> Result<(StatusCode, Vec<u8>), Trouble> {
        let until = Instant::now() + PATIENCE;
        loop {
            let heard = async {
                let answer = question().send().await?;
                Ok::<_, reqwest::Error>((answer.status(), answer.bytes().await?.to_vec()))
            };
            match heard.await {
                Ok((status, body)) if !status.is_server_error() => return Ok((status, body)),
                Ok((status, body)) if Instant::now() > until => {
                    return Err(said::complaint(status.into(), &body).into());
                }
                Err(_) if Instant::now() > until => return Err(self.nobody()),
                Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn nobody(&self) -> Trouble {
        format!("no shop answers at {}; start one with `souk serve`", self.url).into()
    }
}

fn understand<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, Trouble> {
    if !status.is_success() {
        let hint = if status == StatusCode::UNAUTHORIZED { ": is SOUK_STAFF_TOKEN the shop's?" } else { "" };
        return Err(format!("{}{hint}", said::complaint(status.into(), body)).into());
    }
    Ok(serde_json::from_slice(body)?)
}
