//! Comparison of secrets, such as the header values that restricted methods need.

/// Whether both are equal, in a time that depends on the lengths only and so does not reveal where they differ.
pub fn is_equal(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && subtle::ConstantTimeEq::ct_eq(given, expected).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_bytes_are_equal() {
        assert!(is_equal(b"secret", b"secret") && is_equal(b"", b""));
        for given in [b"secreT".as_slice(), b"Secret", b"secre", b"secrets", b""] {
            assert!(!is_equal(given, b"secret"), "{given:?}");
        }
    }
}
