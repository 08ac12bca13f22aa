//! The memory of requests: what is in use, the limit if there is one, and what was refused; and what the access log lacks.

use super::family::{Family, Kind, Page};
use crate::byte_budget::ByteBudget;

impl Page {
    /// Adds the requests that the access log lacks.
    pub fn add_access_log(&mut self, dropped: u64) {
        self.families.push(Family::single(
            Kind::Counter,
            "tritonserver_access_log_dropped",
            "Number of requests that are not in the access log, because its file was too slow or full",
            dropped as f64,
        ));
    }

    /// Adds the memory of requests in flight.
    pub fn add_request_memory(&mut self, budget: &ByteBudget) {
        let mut one = |kind, name, help, value: u64| self.families.push(Family::single(kind, name, help, value as f64));
        one(
            Kind::Gauge,
            "tritonserver_inflight_request_bytes",
            "Bytes of requests in flight, HTTP and gRPC together",
            budget.in_use() as u64,
        );
        if let Some(limit) = budget.limit() {
            one(
                Kind::Gauge,
                "tritonserver_inflight_request_bytes_limit",
                "Most bytes that requests in flight may use: --max-inflight-request-bytes",
                limit as u64,
            );
        }
        one(
            Kind::Counter,
            "tritonserver_inflight_request_bytes_refused",
            "Number of requests refused because too many bytes were in flight",
            budget.refused(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_requests_is_shown_with_its_limit_if_there_is_one() {
        let budget = std::sync::Arc::new(ByteBudget::new(100));
        let held = budget.reserve(60).unwrap();
        budget.reserve(41).unwrap_err();
        let values = |budget: &ByteBudget| -> Vec<String> {
            let mut page = Page::default();
            page.add_request_memory(budget);
            page.text().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
        };
        assert_eq!(
            values(&budget),
            [
                "tritonserver_inflight_request_bytes 60",
                "tritonserver_inflight_request_bytes_limit 100",
                "tritonserver_inflight_request_bytes_refused 1",
            ]
        );
        drop(held);
        assert_eq!(values(&ByteBudget::new(0)).len(), 2);
    }
}
