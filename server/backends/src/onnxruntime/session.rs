//! A session with the names of its tensors prepared once: `Run`, straight through the C interface.

#![allow(unsafe_code)]

use std::{
    ffi::{CString, c_char},
    ptr,
    sync::Arc,
};

use ort::{
    AsPointer,
    session::{RunOptions, SharedSessionInner},
    sys,
};
use smallvec::SmallVec;

use super::{
    captured::{Captured, Names},
    raw::{Failure, Value, Values, check},
};

/// A session with the names of its tensors, ready to run.
pub(super) struct NamedSession {
    session: Arc<SharedSessionInner>,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    options: Option<RunOptions>,
    captured: Option<Captured>,
}

impl NamedSession {
    /// Names come in the order in which `run` counts them. `captured`: runs are captured and replayed.
    pub(super) fn new(
        session: Arc<SharedSessionInner>,
        inputs: Vec<CString>,
        outputs: Vec<CString>,
        options: Option<RunOptions>,
        captured: Option<Captured>,
    ) -> Self {
        Self { session, inputs, outputs, options, captured }
    }

    /// How many runs are captured.
    #[cfg(test)]
    pub(super) fn captured(&self) -> usize {
        self.captured.as_ref().map_or(0, Captured::count)
    }

    /// The session, kept alive by whoever keeps its outputs.
    pub(super) fn session(&self) -> &Arc<SharedSessionInner> {
        &self.session
    }

    /// Runs the model on `inputs`, each with the number of its name, and computes `outputs`, by number.
    ///
    /// Errors: whatever the model finds wrong. The session is as good as before.
    pub(super) fn run<'a>(&mut self, inputs: &[(usize, Value<'a>)], outputs: &[usize]) -> Result<Values<'a>, Failure> {
        if let Some(captured) = &mut self.captured {
            let names = Names { inputs: &self.inputs, outputs: &self.outputs };
            if let Some(answer) = captured.replay(&self.session, &names, inputs, outputs) {
                return answer;
            }
        }
        let input_names: SmallVec<[*const c_char; 8]> = inputs.iter().map(|(i, _)| self.inputs[*i].as_ptr()).collect();
        let input_values: SmallVec<[*const sys::OrtValue; 8]> =
            inputs.iter().map(|(_, value)| value.as_ptr()).collect();
        let output_names: SmallVec<[*const c_char; 8]> = outputs.iter().map(|&i| self.outputs[i].as_ptr()).collect();
        let mut output_values: SmallVec<[*mut sys::OrtValue; 8]> = SmallVec::from_elem(ptr::null_mut(), outputs.len());
        let options = self.captured.as_ref().map(Captured::ordinary).or(self.options.as_ref());
        let options = options.map_or(ptr::null(), AsPointer::ptr);
        // SAFETY: all four lists are as long as said and live through the call; names are terminated; `&mut self` keeps a
        // second run on this session out.
        let status = unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                options,
                input_names.as_ptr(),
                input_values.as_ptr(),
                input_values.len(),
                output_names.as_ptr(),
                output_names.len(),
                output_values.as_mut_ptr(),
            )
        };
        let made: Result<Values<'a>, Failure> =
            output_values.into_iter().filter(|value| !value.is_null()).map(Value::owned).collect();
        check(status)?;
        let made = made?;
        if made.len() != outputs.len() {
            return Err(Failure::without("an output is missing"));
        }
        if let Some(captured) = &mut self.captured {
            captured.prepare(&self.session, inputs, outputs, &made);
        }
        Ok(made)
    }
}
