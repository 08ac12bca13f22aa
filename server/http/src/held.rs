//! Bytes of a request that hold their part of the byte budget as long as they live: also in a queue, and also after the
//! caller has left.

use std::{mem, sync::Arc};

use bytes::Bytes;
use server_core::{buffer::Buffer, byte_budget::Reservation, tensor::Tensor};

/// Smaller tensors do not carry a reservation: it ends with the request's future instead, which costs nothing. What
/// cancelled requests with small tensors hold is bounded by the length of the queue. Units: bytes.
const SMALL: usize = 4096;

/// A body and its reservation.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    pub(crate) reservation: Reservation,
}

struct Held {
    bytes: Bytes,
    _reservation: Arc<Reservation>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Lets the tensors hold the reservation until the last of them is dropped. If all are small, gives it back: the
/// caller keeps it until the response. Tensors in shared memory of a client take nothing of it.
pub(crate) fn hold(tensors: &mut [Tensor], reservation: Reservation) -> Option<Reservation> {
    let is_large = |tensor: &&mut Tensor| tensor.data.len() > SMALL && !tensor.data.is_of_client();
    if !tensors.iter_mut().any(|tensor| is_large(&tensor)) {
        return Some(reservation);
    }
    let reservation = Arc::new(reservation);
    for tensor in tensors.iter_mut().filter(is_large) {
        let data = mem::take(&mut tensor.data);
        let is_unique = data.take_unique();
        if let Some(bytes) = data.into_host() {
            let bytes = Bytes::from_owner(Held { bytes, _reservation: reservation.clone() });
            tensor.data = if is_unique { Buffer::unique(bytes) } else { bytes.into() };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use server_core::{byte_budget::ByteBudget, tensor::DataType};

    use super::*;

    fn tensor(data: Bytes) -> Tensor {
        let shape = [data.len() as i64].as_slice().into();
        Tensor { name: "A".into(), data_type: DataType::Uint8, shape, data: data.into() }
    }

    #[test]
    fn a_large_tensor_holds_the_budget_until_it_is_dropped() {
        let budget = Arc::new(ByteBudget::new(0));
        let body = Bytes::from(vec![7; 10_000]);
        let mut tensors = vec![tensor(body.slice(..10)), tensor(body.slice(10..5000)), tensor(body.slice(5000..))];
        assert!(hold(&mut tensors, budget.reserve(10_000).unwrap()).is_none());
        assert_eq!(tensors[1].data.as_host().unwrap().as_ptr(), body[10..].as_ptr());
        assert!(!tensors[1].data.take_unique());
        tensors[2].data = Buffer::unique(body.slice(5000..));
        assert!(hold(&mut tensors[2..], budget.reserve(0).unwrap()).is_none() && tensors[2].data.take_unique());
        tensors.pop();
        assert_eq!(budget.in_use(), 10_000);
        let rest = tensors.pop().unwrap().data.into_host().unwrap().slice(1..);
        tensors.clear();
        assert_eq!(budget.in_use(), 10_000);
        drop(rest);
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn small_tensors_leave_the_reservation_to_the_request() {
        let budget = Arc::new(ByteBudget::new(0));
        let mut tensors = vec![tensor(Bytes::from_static(b"small"))];
        let kept = hold(&mut tensors, budget.reserve(5).unwrap()).unwrap();
        assert_eq!((kept.bytes(), budget.in_use()), (5, 5));
    }
}
