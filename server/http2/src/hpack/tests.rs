//! Header blocks as others write them, in every form there is, and what others read in them.

use fluke_hpack::{Decoder as OtherDecoder, Encoder as OtherEncoder};
use http::HeaderName;
use proptest::{collection::vec, prelude::*, sample::select};

use super::{Decoder, Field, HpackError, fuzzing, huffman, integer};

/// Sum of the sizes of fields that is never reached.
const NO_LIMIT: usize = 1 << 30;

/// How a field is written.
#[derive(Debug, Clone, Copy)]
struct Form {
    /// Bits of an index after the bits that say how the table is to take the field, as in the first byte.
    prefix: u32,
    pattern: u8,
    is_compressed: bool,
}

/// One step of a connection.
#[derive(Debug, Clone)]
enum Step {
    /// A field of a table, as it is.
    Indexed(usize),
    /// The name of a field of a table, and a value.
    NameIndexed(usize, Form, String),
    Literal(Form, String, String),
    /// The end of a block, and what the next one says of the size of the table first.
    NewBlock(Option<usize>),
}

fn forms() -> impl Strategy<Value = Form> {
    let kinds = select(vec![(6, 0x40), (4, 0x00), (4, 0x10)]);
    (kinds, any::<bool>()).prop_map(|((prefix, pattern), is_compressed)| Form { prefix, pattern, is_compressed })
}

/// Mostly the indices of requests, and those of a table of a few entries.
fn indices() -> impl Strategy<Value = usize> {
    prop_oneof![1..8_usize, 15..62_usize, 62..75_usize]
}

fn steps() -> impl Strategy<Value = Step> {
    let values = || prop_oneof!["[ -~]{0,40}", "[a-z/]{0,12}"];
    let names = prop_oneof![
        "[a-z0-9-]{1,12}",
        select(vec![":path".into(), ":authority".into(), "te".into(), "grpc-timeout".into()])
    ];
    prop_oneof![
        3 => indices().prop_map(Step::Indexed),
        2 => (indices(), forms(), values()).prop_map(|(index, form, value)| Step::NameIndexed(index, form, value)),
        4 => (forms(), names, values()).prop_map(|(form, name, value)| Step::Literal(form, name, value)),
        1 => proptest::option::of(0..=4096_usize).prop_map(Step::NewBlock),
    ]
}

/// The blocks of a connection.
fn written(steps: &[Step]) -> Vec<Vec<u8>> {
    let mut blocks = vec![Vec::new()];
    for step in steps {
        let block = blocks.last_mut().unwrap();
        match step {
            Step::Indexed(index) => integer::encode(*index, 7, 0x80, block),
            Step::NameIndexed(index, form, value) => {
                integer::encode(*index, form.prefix, form.pattern, block);
                string(value, form.is_compressed, block);
            }
            Step::Literal(form, name, value) => {
                integer::encode(0, form.prefix, form.pattern, block);
                string(name, form.is_compressed, block);
                string(value, form.is_compressed, block);
            }
            Step::NewBlock(size) => {
                let mut next = Vec::new();
                if let Some(size) = size {
                    integer::encode(*size, 5, 0x20, &mut next);
                    next.push(0x82); // the other reader wants a field behind it
                }
                blocks.push(next);
            }
        }
    }
    blocks
}

fn string(string: &str, is_compressed: bool, into: &mut Vec<u8>) {
    let compressed;
    let (bytes, pattern) = if is_compressed {
        compressed = huffman::encode(string.as_bytes());
        (compressed.as_slice(), 0x80)
    } else {
        (string.as_bytes(), 0)
    };
    integer::encode(bytes.len(), 7, pattern, into);
    into.extend_from_slice(bytes);
}

fn pair(field: &Field) -> (Vec<u8>, Vec<u8>) {
    let (name, value): (&str, &[u8]) = match field {
        Field::Method(value) => (":method", value),
        Field::Scheme(value) => (":scheme", value),
        Field::Authority(value) => (":authority", value),
        Field::Path(value) => (":path", value),
        Field::Header(name, value) => (name.as_str(), value.as_bytes()),
    };
    (name.into(), value.to_vec())
}

/// Whether HTTP/2 permits it in a request.
fn is_well_formed((name, value): &(Vec<u8>, Vec<u8>)) -> bool {
    let is_name = [&b":method"[..], b":scheme", b":authority", b":path"].contains(&name.as_slice())
        || HeaderName::from_lowercase(name).is_ok();
    is_name && (name[0] == b':' || value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..)))
}

/// Reads the blocks with both, until one of them cannot be read.
fn compare(blocks: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let (mut ours, mut other) = (Decoder::new(4096), OtherDecoder::new());
    other.set_max_allowed_table_size(4096);
    for block in blocks {
        let mut fields = Vec::new();
        let outcome = ours.decode(block, NO_LIMIT, |field| fields.push(pair(&field)));
        let expected = other.decode(block);
        match (outcome, expected) {
            (Err(HpackError::Compression(_)), Err(_)) => return Ok(()),
            (Ok(()), Ok(expected)) => prop_assert_eq!(fields, expected),
            (Err(HpackError::Malformed), Ok(expected)) => {
                let good: Vec<_> = expected.iter().take_while(|field| is_well_formed(field)).cloned().collect();
                prop_assert!(good.len() < expected.len());
                prop_assert_eq!(fields, good);
            }
            (outcome, expected) => prop_assert!(false, "{outcome:?} where another reader finds {expected:?}"),
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_is_written_in_any_form_is_read_as_another_reader_reads_it(steps in vec(steps(), 1..60)) {
        compare(&written(&steps))?;
    }

    #[test]
    fn what_another_writer_writes_is_read(
        requests in vec(vec((select(vec!["a", "te", "grpc-timeout", "user-agent", "x-trace"]), "[a-z0-9 ]{0,30}"), 0..10), 1..10),
    ) {
        let (mut encoder, mut decoder) = (OtherEncoder::new(), Decoder::new(4096));
        for request in requests {
            let block = encoder.encode(request.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
            let mut fields = Vec::new();
            prop_assert_eq!(decoder.decode(&block, NO_LIMIT, |field| fields.push(pair(&field))), Ok(()));
            prop_assert_eq!(fields, request.into_iter().map(|(name, value)| (name.into(), value.into())).collect::<Vec<_>>());
        }
    }

    #[test]
    fn whatever_bytes_come_the_rules_hold(data in vec(any::<u8>(), 0..200)) {
        fuzzing::hpack(&data);
    }

    #[test]
    fn a_block_with_one_wrong_byte_keeps_the_rules(steps in vec(steps(), 1..30), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut data = written(&steps).concat();
        prop_assume!(!data.is_empty());
        *at.get_mut(&mut data) = byte;
        data.splice(0..0, [byte, byte]);
        fuzzing::hpack(&data);
    }
}
