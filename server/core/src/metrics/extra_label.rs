//! The label that the lines of one series differ in: the limit of a bucket, or a quantile. Thousands of series have the same
//! values of it, so each is written once.

/// Begins lines `name{labels,label="value"} ` of one series after the other.
pub(super) struct ExtraLabel {
    label: &'static str,
    write_number: fn(&mut String, f64),
    /// Up to the label.
    head: String,
    values: Vec<f64>,
    /// From the label on, one for each of `values`.
    tails: Vec<String>,
}

impl ExtraLabel {
    /// `write_number` is how the format has numbers in labels.
    pub(super) fn new(label: &'static str, write_number: fn(&mut String, f64)) -> Self {
        Self { label, write_number, head: String::new(), values: Vec::new(), tails: Vec::new() }
    }

    /// Goes on to the series of that name and those labels, whose lines have those values.
    pub(super) fn next_series(&mut self, name: &[&str], labels: &str, values: impl Iterator<Item = f64> + Clone) {
        self.head.clear();
        self.head.extend(name.iter().copied().chain(["{", labels, if labels.is_empty() { "" } else { "," }]));
        if self.values.iter().copied().eq(values.clone()) {
            return;
        }
        self.values = values.collect();
        let tail = |value: &f64| {
            let mut tail = format!("{}=\"", self.label);
            (self.write_number)(&mut tail, *value);
            tail + "\"} "
        };
        self.tails = self.values.iter().map(tail).collect();
    }

    /// Begins the line of the value of that number.
    pub(super) fn begin_line(&self, text: &mut String, index: usize) {
        text.push_str(&self.head);
        text.push_str(self.tails.get(index).map_or("} ", String::as_str));
    }
}
