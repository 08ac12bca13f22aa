//! What must hold of header blocks, whatever bytes they are.

use super::{Decoder, Encoder, Field, HpackError};

/// Largest list of fields that is asked for.
const MAX_LIST: usize = 2000;

/// Reads blocks one after the other with one table. The first byte says how long each is, and the second how large the table.
///
/// What is read is never larger than was permitted, does not depend on how much was permitted of the blocks before, and is the same
/// when it is written and read again.
pub fn hpack(data: &[u8]) {
    let [length, size, blocks @ ..] = data else { return };
    let new = || Decoder::new(usize::from(*size) * 32);
    let (mut decoder, mut strict, mut encoder, mut reader) =
        (new(), new(), Encoder::new(), Decoder::new(super::DEFAULT_TABLE_SIZE));
    for block in blocks.chunks(usize::from(*length) + 1) {
        let mut fields = Vec::new();
        let outcome = decoder.decode(block, MAX_LIST, |field| fields.push(field));
        let total: usize = fields.iter().map(Field::size).sum();
        assert!(total <= MAX_LIST, "{total} bytes of fields");
        assert_eq!(
            strict.decode(block, 0, |_| panic!("nothing is permitted")).is_ok(),
            outcome.is_ok() && fields.is_empty()
        );
        if let Err(HpackError::Compression(_)) = outcome {
            break;
        }
        let mut written = Vec::new();
        fields.retain(|field| match field {
            Field::Header(name, value) => {
                encoder.field(name, value, &mut written);
                true
            }
            _ => false,
        });
        let mut again = Vec::new();
        reader.decode(&written, MAX_LIST, |field| again.push(field)).expect("it was written by us");
        assert_eq!(again, fields);
    }
    // A table that saw all blocks without a field being asked for is the same.
    assert_eq!(format!("{decoder:?}"), format!("{strict:?}"));
}
