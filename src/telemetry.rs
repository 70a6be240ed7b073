//! Logs and metrics: the one place that decides their form.

use std::{cell::RefCell, collections::HashMap, io::IsTerminal, sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging, once a process; a second call changes nothing.
///
/// # Errors
/// Where the filter cannot be read.
pub fn start_logging(log: &Log) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.filter).map_err(|error| format!("log.filter: {error}"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // an error means that logging is on already
    match log.format {
        LogFormat::Text => lines.with_target(false).try_init().ok(),
        LogFormat::Json => lines.json().flatten_event(true).try_init().ok(),
    };
    Ok(())
}

/// The process' metrics, for `GET /metrics`. Somebody has to call `run_upkeep` now and then, for samples of histograms
/// pile up where nobody reads them.
///
/// # Panics
/// Where another recorder was installed, which nothing in this program does.
pub fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let seconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
        let entries = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_entries".to_owned()), &entries))
            .and_then(PrometheusBuilder::install_recorder)
            .expect("buckets are not empty, and nobody else records")
    })
}

/// A request was answered. Each thread looks a series up once: its labels cost more to make than the answer to "sold out".
pub(crate) fn answered(route: &str, status: u16, took: Duration) {
    type ByRoute = HashMap<String, metrics::Histogram>;
    thread_local! {
        static SERIES: RefCell<HashMap<u16, ByRoute>> = RefCell::default();
    }
    SERIES.with_borrow_mut(|series| {
        let by_route = series.entry(status).or_default();
        if !by_route.contains_key(route) {
            let labels = [("route", route.to_owned()), ("status", status.to_string())];
            by_route.insert(route.to_owned(), metrics::histogram!("souk_http_request_seconds", &labels));
        }
        by_route[route].record(took.as_secs_f64());
    });
}
