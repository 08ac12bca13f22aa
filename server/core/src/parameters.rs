//! Custom parameters.

/// A value of a custom parameter, on requests and on responses.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// True or false.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// A number that only fits unsigned.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// A text.
    String(String),
}

/// Parameters in the order given.
pub type Parameters = Vec<(String, Parameter)>;
