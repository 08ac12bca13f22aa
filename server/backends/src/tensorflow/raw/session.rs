//! A loaded graph and the session that runs it.

use std::{
    ffi::{CStr, CString, c_int},
    ptr::{self, NonNull},
    slice,
};

use smallvec::SmallVec;

use super::{
    Endpoint, Failure, Functions, Tensor, TfBuffer, TfGraph, TfOperation, TfSession, TfSessionOptions, TfTensor, text,
};
use crate::{native::Values, tensorflow::fetches::Fetches};

/// An operation of a graph.
pub(in super::super) struct Operation {
    /// Its name in the graph.
    pub(in super::super) name: String,
    /// What it does, e.g. `Placeholder`.
    pub(in super::super) kind: String,
}

/// A loaded graph and the session that runs it. Any number of threads may run it at once.
pub(in super::super) struct Session {
    functions: &'static Functions,
    session: NonNull<TfSession>,
    graph: NonNull<TfGraph>,
    /// Its variables are changed where they lie, so what it answers may change afterwards.
    changes_in_place: bool,
    /// The outputs that were asked for together.
    pub(in super::super) fetches: Fetches,
}

// SAFETY: sessions and graphs of TensorFlow may be used by any thread, and by several at once.
unsafe impl Send for Session {}
// SAFETY: as above.
unsafe impl Sync for Session {}

/// A graph without a session, until it has one.
struct Graph(&'static Functions, NonNull<TfGraph>);

impl Graph {
    fn new(functions: &'static Functions) -> Result<Self, Failure> {
        // SAFETY: takes nothing and answers a new graph.
        let graph = NonNull::new(unsafe { (functions.TF_NewGraph)() });
        Ok(Self(functions, graph.ok_or_else(|| Failure::internal("no graph came back"))?))
    }

    fn into_raw(self) -> NonNull<TfGraph> {
        let graph = self.1;
        std::mem::forget(self);
        graph
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: owned, and no session was made of it.
        unsafe { (self.0.TF_DeleteGraph)(self.1.as_ptr()) }
    }
}

/// Options of a session while it is made.
struct Options(&'static Functions, *mut TfSessionOptions);

impl Options {
    /// `config`: a `ConfigProto`.
    fn new(functions: &'static Functions, config: &[u8]) -> Result<Self, Failure> {
        // SAFETY: takes nothing and answers new options.
        let options = Self(functions, unsafe { (functions.TF_NewSessionOptions)() });
        // SAFETY: options and bytes are valid through the call, which copies.
        functions.call(|status| unsafe {
            (functions.TF_SetConfig)(options.1, config.as_ptr().cast(), config.len(), status);
        })?;
        Ok(options)
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made in `new` and deleted once.
        unsafe { (self.0.TF_DeleteSessionOptions)(self.1) }
    }
}

impl Session {
    /// Loads the graph of that tag out of a SavedModel, restores its variables and runs its initialisers. `config`: a
    /// `ConfigProto`. The other answer is its `MetaGraphDef`.
    ///
    /// Errors: in TensorFlow's words.
    pub(in super::super) fn of_saved_model(
        functions: &'static Functions,
        config: &[u8],
        folder: &CStr,
        tag: &CStr,
    ) -> Result<(Self, Vec<u8>), Failure> {
        let options = Options::new(functions, config)?;
        let graph = Graph::new(functions)?;
        // SAFETY: takes nothing and answers a new buffer, which is deleted below.
        let described = unsafe { (functions.TF_NewBuffer)() };
        let tags = [tag.as_ptr()];
        // SAFETY: all arguments are valid through the call; there is one tag, and no options of a run.
        let session = functions.call(|status| unsafe {
            let (folder, graph, no_options) = (folder.as_ptr(), graph.1.as_ptr(), ptr::null());
            let load = functions.TF_LoadSessionFromSavedModel;
            load(options.1, no_options, folder, tags.as_ptr(), 1, graph, described, status)
        });
        // SAFETY: the buffer is valid; its data is what the call has put there, and goes with it.
        let description = unsafe {
            let TfBuffer { data, length, .. } = &*described;
            let bytes = if data.is_null() { Vec::new() } else { slice::from_raw_parts(data.cast(), *length).to_vec() };
            (functions.TF_DeleteBuffer)(described);
            bytes
        };
        Ok((Self::new(graph, session?)?, description))
    }

    /// Makes a session of a `GraphDef`, whose operations run on `device` where they name none. `config`: a `ConfigProto`.
    ///
    /// Errors: in TensorFlow's words.
    pub(in super::super) fn of_graph(
        functions: &'static Functions,
        config: &[u8],
        definition: &[u8],
        device: Option<&CStr>,
    ) -> Result<Self, Failure> {
        let options = Options::new(functions, config)?;
        let graph = Graph::new(functions)?;
        let definition = TfBuffer { data: definition.as_ptr().cast(), length: definition.len(), deallocator: None };
        // SAFETY: the graph is new and the bytes are valid through the call; the options are made and deleted here.
        functions.call(|status| unsafe {
            let import = (functions.TF_NewImportGraphDefOptions)();
            if let Some(device) = device {
                (functions.TF_ImportGraphDefOptionsSetDefaultDevice)(import, device.as_ptr());
            }
            (functions.TF_GraphImportGraphDef)(graph.1.as_ptr(), &raw const definition, import, status);
            (functions.TF_DeleteImportGraphDefOptions)(import);
        })?;
        // SAFETY: graph and options are valid through the call.
        let session =
            functions.call(|status| unsafe { (functions.TF_NewSession)(graph.1.as_ptr(), options.1, status) })?;
        Self::new(graph, session)
    }

    fn new(graph: Graph, session: *mut TfSession) -> Result<Self, Failure> {
        let session = NonNull::new(session).ok_or_else(|| Failure::internal("no session came back"))?;
        let functions = graph.0;
        let (graph, fetches) = (graph.into_raw(), Fetches::default());
        let mut session = Self { functions, session, graph, changes_in_place: false, fetches };
        let is_variable = |kind: &str| matches!(kind, "Variable" | "VariableV2" | "TemporaryVariable");
        let changes_in_place = session.operations().any(|operation| is_variable(&operation.kind));
        session.changes_in_place = changes_in_place;
        Ok(session)
    }

    /// Every operation of the graph.
    pub(in super::super) fn operations(&self) -> impl Iterator<Item = Operation> + '_ {
        let mut position = 0_usize;
        std::iter::from_fn(move || {
            // SAFETY: the graph is valid, and `position` is what the call before left there.
            let operation = unsafe { (self.functions.TF_GraphNextOperation)(self.graph.as_ptr(), &raw mut position) };
            // SAFETY: an operation lives as long as its graph, and so do its texts.
            (!operation.is_null()).then(|| unsafe {
                let name = text((self.functions.TF_OperationName)(operation));
                Operation { name, kind: text((self.functions.TF_OperationOpType)(operation)) }
            })
        })
    }

    /// The tensor of that name, `OPERATION` or `OPERATION:INDEX`, and TensorFlow's number of its type. `None` if there is none.
    pub(in super::super) fn endpoint(&self, tensor: &str) -> Option<(Endpoint, i32)> {
        let (name, index) = match tensor.rsplit_once(':') {
            Some((name, index)) => (name, index.parse().ok()?),
            None => (tensor, 0),
        };
        let operation = self.operation(name)?;
        // SAFETY: the operation is part of the graph.
        if index < 0 || unsafe { (self.functions.TF_OperationNumOutputs)(operation.as_ptr()) } <= index {
            return None;
        }
        let endpoint = Endpoint { operation: operation.as_ptr(), index };
        // SAFETY: the operation is part of the graph and has an output of that number.
        Some((endpoint, unsafe { (self.functions.TF_OperationOutputType)(endpoint) }))
    }

    /// How many dimensions a tensor has, `None` if that is open.
    pub(in super::super) fn rank(&self, endpoint: Endpoint) -> Option<usize> {
        let functions = self.functions;
        // SAFETY: the endpoint is one of this graph.
        let rank = functions
            .call(|status| unsafe { (functions.TF_GraphGetTensorNumDims)(self.graph.as_ptr(), endpoint, status) });
        rank.ok().and_then(|rank| usize::try_from(rank).ok())
    }

    fn operation(&self, name: &str) -> Option<NonNull<TfOperation>> {
        let name = CString::new(name).ok()?;
        // SAFETY: the graph is valid and the name terminated.
        NonNull::new(unsafe { (self.functions.TF_GraphOperationByName)(self.graph.as_ptr(), name.as_ptr()) })
    }

    /// Whether TensorFlow has a GPU for it.
    pub(in super::super) fn has_gpu(&self) -> bool {
        let functions = self.functions;
        // SAFETY: the session is valid.
        let list = functions.call(|status| unsafe { (functions.TF_SessionListDevices)(self.session.as_ptr(), status) });
        let Some(list) = list.ok().and_then(NonNull::new) else { return false };
        // SAFETY: the list is valid until it is deleted below, and numbers are below its count.
        unsafe {
            let count = (functions.TF_DeviceListCount)(list.as_ptr());
            let is_gpu = |index| {
                let kind = functions.call(|status| text((functions.TF_DeviceListType)(list.as_ptr(), index, status)));
                kind.is_ok_and(|kind| kind == "GPU")
            };
            let has_gpu = (0..count).any(is_gpu);
            (functions.TF_DeleteDeviceList)(list.as_ptr());
            has_gpu
        }
    }

    /// Runs an operation for what it does.
    ///
    /// Errors: there is none of that name, or what TensorFlow says.
    pub(in super::super) fn run_operation(&self, name: &str) -> Result<(), Failure> {
        let operation = self.operation(name);
        let operation =
            operation.ok_or_else(|| Failure::invalid_argument(format!("the graph has no operation '{name}'")))?;
        self.call_run(&[], &[], &[], &mut [], &[operation.as_ptr().cast_const()])
    }

    /// Feeds the inputs and computes the outputs, in that order.
    ///
    /// Errors: in TensorFlow's words. The session is as good as before.
    pub(in super::super) fn run(
        &self,
        inputs: &[(Endpoint, Tensor)],
        outputs: &[Endpoint],
    ) -> Result<Values<Tensor>, Failure> {
        let places: SmallVec<[Endpoint; 8]> = inputs.iter().map(|(place, _)| *place).collect();
        let fed: SmallVec<[*mut TfTensor; 8]> = inputs.iter().map(|(_, tensor)| tensor.pointer.as_ptr()).collect();
        let mut made: SmallVec<[*mut TfTensor; 8]> = SmallVec::from_elem(ptr::null_mut(), outputs.len());
        let ran = self.call_run(&places, &fed, outputs, &mut made, &[]);
        let owned = |pointer| Some(Tensor::owned(self.functions, NonNull::new(pointer)?, self.changes_in_place));
        let made: Values<Tensor> = made.into_iter().filter_map(owned).collect();
        ran?;
        if made.len() == outputs.len() { Ok(made) } else { Err(Failure::internal("an output is missing")) }
    }

    fn call_run(
        &self,
        places: &[Endpoint],
        fed: &[*mut TfTensor],
        outputs: &[Endpoint],
        made: &mut [*mut TfTensor],
        operations: &[*const TfOperation],
    ) -> Result<(), Failure> {
        let count = |length| c_int::try_from(length).map_err(|_| Failure::internal("too many tensors"));
        let (inputs, wanted, targets) = (count(places.len())?, count(outputs.len())?, count(operations.len())?);
        // SAFETY: the lists are as long as said and live through the call; places and operations are of this session's graph; it
        // reads the tensors that are fed, and writes new ones, or null, to `made`. No options, no description of the run.
        self.functions.call(|status| unsafe {
            (self.functions.TF_SessionRun)(
                self.session.as_ptr(),
                ptr::null(),
                places.as_ptr(),
                fed.as_ptr(),
                inputs,
                outputs.as_ptr(),
                made.as_mut_ptr(),
                wanted,
                operations.as_ptr(),
                targets,
                ptr::null_mut(),
                status,
            );
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Self { functions, session, graph, .. } = self;
        // SAFETY: session and graph are owned and deleted once, in the order that the header asks for. Tensors of the session own
        // their memory. What the calls have to say changes nothing.
        unsafe {
            drop(functions.call(|status| (functions.TF_CloseSession)(session.as_ptr(), status)));
            drop(functions.call(|status| (functions.TF_DeleteSession)(session.as_ptr(), status)));
            (functions.TF_DeleteGraph)(graph.as_ptr());
        }
    }
}
