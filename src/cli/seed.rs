//! `souk seed`: the demo catalogue, or as many SKUs as wanted, through the API of a running shop.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Failure, nobody};
use crate::{app, config::Config, shop::demo};

/// SKUs of one product.
const EACH: u32 = 1_000;

pub(super) async fn run(config: Config, skus: Option<u32>) -> Result<ExitCode, Failure> {
    let token = app::staff_token(&config)?;
    let base = format!("http://{}", config.http.listen);
    let client = reqwest::Client::new();
    if let Some(count) = skus {
        return bulk(&config, &client, count).await;
    }
    let answer = client.get(format!("{base}/v1/products?limit=1")).send().await;
    let sold: Value = answer.map_err(|_| nobody(&config))?.error_for_status()?.json().await?;
    if sold["products"].as_array().is_some_and(|products| !products.is_empty()) {
        println!("The shop sells something already; nothing was added.");
        return Ok(ExitCode::SUCCESS);
    }
    let catalogue = demo::catalogue();
    for product in &catalogue {
        let skus: Vec<Value> = product
            .skus
            .iter()
            .map(|sku| json!({ "code": sku.code, "price": sku.price.amount(), "on_hand": sku.on_hand }))
            .collect();
        let body = json!({ "name": product.name, "description": product.description, "currency": "USD", "skus": skus });
        let made =
            client.post(format!("{base}/v1/admin/products")).bearer_auth(token.expose()).json(&body).send().await?;
        made.error_for_status()?;
    }
    println!("{} products added.", catalogue.len());
    Ok(ExitCode::SUCCESS)
}

/// Products of a thousand SKUs each. Those that are there already are left as they are.
async fn bulk(config: &Config, client: &reqwest::Client, count: u32) -> Result<ExitCode, Failure> {
    let token = app::staff_token(config)?;
    let url = format!("http://{}/v1/admin/products", config.http.listen);
    let mut added = 0;
    for first in (1..=count).step_by(EACH as usize) {
        let last = count.min(first.saturating_add(EACH - 1));
        let sku = |number| json!({ "code": format!("BULK-{number}"), "price": "10.00", "on_hand": 100 });
        let skus: Vec<Value> = (first..=last).map(sku).collect();
        let body = json!({ "name": format!("Bulk {first} to {last}"), "currency": "USD", "skus": skus });
        let made =
            client.post(&url).bearer_auth(token.expose()).json(&body).send().await.map_err(|_| nobody(config))?;
        if made.status() != reqwest::StatusCode::CONFLICT {
            made.error_for_status()?;
            added += last - first + 1;
        }
    }
    println!("{added} SKUs added.");
    Ok(ExitCode::SUCCESS)
}
