/* Does what the headers forbid. The text of the model's parameter `fault` says what. */
#include "common.h"

typedef struct {
    char fault[64];
    TRITONBACKEND_Request* kept;
} State;

static bool is(const State* state, const char* what) { return strcmp(state->fault, what) == 0; }

static TRITONSERVER_Error* refusal(const State* state, const char* what) {
    return is(state, what) ? TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, what) : NULL;
}

static TRITONSERVER_Error* state_of(TRITONBACKEND_ModelInstance* instance, State** state) {
    TRITONBACKEND_Model* model;
    TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
    return TRITONBACKEND_ModelState(model, (void**)state);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
    TRITONSERVER_Message* config;
    const char* json;
    size_t length;
    TRY(TRITONBACKEND_ModelConfig(model, 1, &config));
    TRY(TRITONSERVER_MessageSerializeToJson(config, &json, &length));
    const char* at = strstr(json, "\"string_value\":\"");
    State* state = calloc(1, sizeof *state);
    TRY(TRITONBACKEND_ModelSetState(model, state));
    if (at != NULL) {
        at += strlen("\"string_value\":\"");
        memcpy(state->fault, at, strcspn(at, "\""));
    }
    TRY(TRITONSERVER_MessageDelete(config));
    TRITONSERVER_Error* twice = TRITONSERVER_MessageDelete(config);
    if (!fails(twice)) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "a message was deleted twice");
    return refusal(state, "model_initialize");
}

TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
    State* state;
    TRY(TRITONBACKEND_ModelState(model, (void**)&state));
    if (state->kept != NULL) fails(TRITONBACKEND_RequestRelease(state->kept, TRITONSERVER_REQUEST_RELEASE_ALL));
    TRITONSERVER_Error* error = refusal(state, "model_finalize");
    free(state);
    return error;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
    /* handles of other kinds, and none */
    uint64_t version;
    const char* name;
    if (!fails(TRITONBACKEND_ModelVersion((TRITONBACKEND_Model*)instance, &version)) ||
        !fails(TRITONBACKEND_ModelInstanceName(NULL, &name)) ||
        !fails(TRITONBACKEND_ModelInstanceName((TRITONBACKEND_ModelInstance*)&name, &name)) ||
        !fails(TRITONBACKEND_ModelInstanceName(instance, NULL))) {
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "a wrong handle was taken");
    }
    State* state;
    TRY(state_of(instance, &state));
    return refusal(state, "instance_initialize");
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
    State* state;
    TRY(state_of(instance, &state));
    TRY(refusal(state, "execute"));
    for (uint32_t index = 0; index < count; ++index) {
        TRITONBACKEND_Request* request = requests[index];
        TRITONBACKEND_Response *response, *second;
        TRY(TRITONBACKEND_ResponseNew(&response, request));
        TRY(TRITONBACKEND_ResponseNew(&second, request));
        if (is(state, "execute_with_responses")) {
            return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "responses were made and are left behind");
        }
        if (is(state, "no_answer")) {
            fails(TRITONBACKEND_ResponseDelete(response));
            fails(TRITONBACKEND_ResponseDelete(second));
            fails(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
            continue;
        }
        if (is(state, "no_bytes")) {
            TRITONBACKEND_Output* output;
            const int64_t shape[] = {3};
            TRY(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, shape, 1));
        } else if (is(state, "unknown_output")) {
            TRITONSERVER_Error* error = repeat(request, "INPUT0", response, "OUTPUT7");
            fails(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
            fails(error);
            fails(TRITONBACKEND_ResponseDelete(second));
            fails(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
            continue;
        } else {
            fails(repeat(request, "INPUT0", response, "OUTPUT0"));
        }
        TRITONSERVER_Error* none = is(state, "bad_error") ? (TRITONSERVER_Error*)&count : NULL;
        fails(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, none));
        fails(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, NULL)); /* gone */
        fails(TRITONBACKEND_ResponseSend(second, TRITONSERVER_RESPONSE_COMPLETE_FINAL, NULL)); /* after the last */
        if (is(state, "never_releases") && state->kept == NULL) {
            state->kept = request;
            continue;
        }
        fails(TRITONBACKEND_RequestRelease(request, 77));
        fails(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
        fails(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL)); /* gone */
        const char* id;
        fails(TRITONBACKEND_RequestId(request, &id)); /* gone */
    }
    return NULL;
}
