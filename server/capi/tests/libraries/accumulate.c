/* A model with sequences whose state the server keeps: OUTPUT0 and the state SUM_OUT are INPUT0 and the state SUM_IN together. */
#include "common.h"

static TRITONSERVER_Error* number(TRITONBACKEND_Request* request, const char* name, int32_t* value) {
    TRITONBACKEND_Input* input;
    TRY(TRITONBACKEND_RequestInput(request, name, &input));
    const void* from;
    TRITONSERVER_BufferAttributes* attributes;
    TRY(TRITONBACKEND_InputBufferAttributes(input, 0, &from, &attributes));
    size_t size;
    TRY(TRITONSERVER_BufferAttributesByteSize(attributes, &size));
    if (size != sizeof *value) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, "one number is expected");
    memcpy(value, from, sizeof *value);
    return NULL;
}

static TRITONSERVER_Error* add_up(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response) {
    int32_t value, sum;
    TRY(number(request, "INPUT0", &value));
    TRY(number(request, "SUM_IN", &sum));
    sum += value;

    TRITONBACKEND_State* state;
    TRITONSERVER_Error* unknown =
        TRITONBACKEND_StateNew(&state, request, "NO_STATE", TRITONSERVER_TYPE_INT32, (int64_t[]){1}, 1);
    if (!fails(unknown)) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "an unknown state was made");
    TRY(TRITONBACKEND_StateNew(&state, request, "SUM_OUT", TRITONSERVER_TYPE_INT32, (int64_t[]){1}, 1));
    if (!fails(TRITONBACKEND_StateUpdate(state))) {
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "a state without bytes was taken");
    }
    void* to;
    TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
    int64_t device = 0;
    TRY(TRITONBACKEND_StateBuffer(state, &to, sizeof sum, &memory, &device));
    memcpy(to, &sum, sizeof sum);
    TRY(TRITONBACKEND_StateUpdate(state));

    TRITONBACKEND_Output* output;
    TRY(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, (int64_t[]){1}, 1));
    TRY(TRITONBACKEND_OutputBuffer(output, &to, sizeof sum, &memory, &device));
    memcpy(to, &sum, sizeof sum);
    return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
    (void)instance;
    for (uint32_t index = 0; index < count; ++index) {
        TRITONBACKEND_Response* response;
        TRY(TRITONBACKEND_ResponseNew(&response, requests[index]));
        TRITONSERVER_Error* error = add_up(requests[index], response);
        fails(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
        fails(error);
        fails(TRITONBACKEND_RequestRelease(requests[index], TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    return NULL;
}
