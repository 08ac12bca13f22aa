//! A trace as Triton's files have it: objects that speak of one part each, in a list of all.
//!
//! Source: Triton trace files, recorded of 2.51: one object for each point, the numbers of tensors as a C++ stream prints them.

use std::{cmp::Reverse, fmt::Write};

use half::{bf16, f16};
use server_core::{
    tensor::{DataType, strings},
    trace::{Activity, Epoch, Event, Finished, TensorActivity},
};

/// Appends the objects of a trace, separated by commas, also from those that are there: the later a part began, the earlier it
/// stands, and what is told of a part has an order of its own, both as in Triton's. Which model runs a part is told with its
/// times only.
pub(crate) fn write(trace: &Finished, clock: &Epoch, out: &mut String) {
    let has_times = trace.stream.values().has_times;
    let is_shown = |event: &&Event| has_times || !matches!(event, Event::Model { .. });
    let mut events: Vec<&Event> = trace.events.iter().filter(is_shown).collect();
    let is_grpc = events.iter().any(|event| matches!(event, Event::Time { activity: Activity::GrpcWaitReadStart, .. }));
    events.sort_by_key(|event| (Reverse(id(event)), place(event, is_grpc))); // others stay in the order in which they came
    for event in events {
        if !out.is_empty() {
            out.push(',');
        }
        write_event(event, clock, out);
    }
}

fn id(event: &Event) -> u64 {
    match event {
        Event::Model { id, .. } | Event::Time { id, .. } | Event::Tensor { id, .. } => *id,
    }
}

/// Where an event stands among those of its part: Triton's server tells of the end of an execution when its responses have been
/// handed over, and of what gRPC has read when it writes.
///
/// Source: Triton trace files, recorded of 2.51.
fn place(event: &Event, is_grpc: bool) -> u8 {
    let activity = match event {
        Event::Model { .. } => return 1,
        Event::Tensor { activity: TensorActivity::QueueInput, .. } => return 3,
        Event::Tensor { activity: TensorActivity::BackendOutput, .. } => return 4,
        Event::Time { activity, .. } => activity,
    };
    match activity {
        Activity::HttpRecvStart | Activity::HttpRecvEnd => 0,
        Activity::RequestStart | Activity::QueueStart => 2,
        Activity::InferResponseComplete if !is_grpc => 5,
        Activity::Custom(_)
        | Activity::ComputeStart
        | Activity::ComputeInputEnd
        | Activity::ComputeOutputStart
        | Activity::ComputeEnd => 6,
        Activity::RequestEnd => 7,
        Activity::GrpcWaitReadStart
        | Activity::GrpcWaitReadEnd
        | Activity::InferResponseComplete
        | Activity::GrpcSendStart
        | Activity::GrpcSendEnd
        | Activity::HttpSendStart
        | Activity::HttpSendEnd => 8,
    }
}

fn write_event(event: &Event, clock: &Epoch, out: &mut String) {
    match event {
        Event::Model { id, parent_id, model, version, request_id, .. } => {
            let _ = write!(out, "{{\"id\":{id},\"model_name\":\"");
            escape(model, out);
            let _ = write!(out, "\",\"model_version\":{version}");
            if !request_id.is_empty() {
                out.push_str(",\"request_id\":\"");
                escape(request_id, out);
                out.push('"');
            }
            if *parent_id != 0 {
                let _ = write!(out, ",\"parent_id\":{parent_id}");
            }
            out.push('}');
        }
        Event::Time { id, activity, at } => {
            let _ = write!(out, "{{\"id\":{id},\"timestamps\":[{{\"name\":\"");
            escape(activity.name(), out);
            let _ = write!(out, "\",\"ns\":{}}}]}}", clock.nanos(*at));
        }
        Event::Tensor { id, activity, name, data_type, shape, data } => {
            let _ = write!(out, "{{\"id\":{id},\"activity\":\"{}\",\"tensor\":{{\"name\":\"", activity.name());
            escape(name, out);
            out.push_str("\",\"data\":\"");
            write_elements(*data_type, data, out);
            let shape: Vec<String> = shape.iter().map(i64::to_string).collect();
            let _ = write!(out, "\",\"shape\":\"{}\",\"dtype\":\"{data_type}\"}}}}", shape.join(","));
        }
    }
}

/// The elements, separated by commas.
fn write_elements(data_type: DataType, data: &[u8], out: &mut String) {
    macro_rules! numbers {
        ($type:ty, |$value:ident| $shown:expr) => {{
            for (place, bytes) in data.chunks_exact(size_of::<$type>()).enumerate() {
                let $value = <$type>::from_le_bytes(bytes.try_into().unwrap_or_default());
                let _ = write!(out, "{}{}", if place > 0 { "," } else { "" }, $shown);
            }
        }};
    }
    match data_type {
        DataType::Bool => numbers!(u8, |value| u8::from(value != 0)),
        DataType::Uint8 => numbers!(u8, |value| value),
        DataType::Uint16 => numbers!(u16, |value| value),
        DataType::Uint32 => numbers!(u32, |value| value),
        DataType::Uint64 => numbers!(u64, |value| value),
        DataType::Int8 => numbers!(i8, |value| value),
        DataType::Int16 => numbers!(i16, |value| value),
        DataType::Int32 => numbers!(i32, |value| value),
        DataType::Int64 => numbers!(i64, |value| value),
        DataType::Fp16 => numbers!(u16, |bits| general(f16::from_bits(bits).to_f64())),
        DataType::Bf16 => numbers!(u16, |bits| general(bf16::from_bits(bits).to_f64())),
        DataType::Fp32 => numbers!(f32, |value| general(value.into())),
        DataType::Fp64 => numbers!(f64, |value| general(value)),
        DataType::Bytes => {
            for (place, element) in strings::elements(data).filter_map(Result::ok).enumerate() {
                out.push_str(if place > 0 { ",\\\"" } else { "\\\"" });
                escape(&String::from_utf8_lossy(element), out);
                out.push_str("\\\"");
            }
        }
    }
}

/// A number with six significant digits, as C's `%g` has it.
fn general(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value.is_nan() { "nan".into() } else { value.to_string() };
    }
    let scientific = format!("{value:.5e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..6).contains(&exponent) {
        trim(&format!("{value:.*}", usize::try_from(5 - exponent).unwrap_or(0)))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(digits), exponent.abs())
    }
}

/// Appends a text as the inside of a JSON string.
fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            plain => out.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_a_cpp_stream_shows_them() {
        for (value, expect) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1.0 / 3.0, "0.333333"),
            (123_456.0, "123456"),
            (1_234_567.0, "1.23457e+06"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (0.0, "0"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(general(value), expect);
        }
    }

    #[test]
    fn elements_of_every_kind_are_shown() {
        let shown = |data_type, data: &[u8]| {
            let mut text = String::new();
            write_elements(data_type, data, &mut text);
            text
        };
        assert_eq!(shown(DataType::Int32, &[1, 0, 0, 0, 255, 255, 255, 255]), "1,-1");
        assert_eq!(shown(DataType::Bool, &[1, 0, 2]), "1,0,1");
        assert_eq!(shown(DataType::Bytes, b"\x02\0\0\0a\"\x01\0\0\0b"), r#"\"a\"\",\"b\""#);
        assert_eq!(shown(DataType::Fp16, &[0, 0x3c]), "1");
        assert_eq!(shown(DataType::Fp32, &[]), "");
    }
}
