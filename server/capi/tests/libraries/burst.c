/* Sends all responses of a request from Execute itself, as a library with one thread does: INPUT0[0] says how many. */
#include "common.h"

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
    (void)instance;
    for (uint32_t index = 0; index < count; ++index) {
        TRITONBACKEND_ResponseFactory* factory;
        TRY(TRITONBACKEND_ResponseFactoryNew(&factory, requests[index]));
        int32_t values = first_number(requests[index]);
        fails(TRITONBACKEND_RequestRelease(requests[index], TRITONSERVER_REQUEST_RELEASE_ALL));
        for (int32_t value = 0; value < values; ++value) {
            bool is_cancelled = false;
            fails(TRITONBACKEND_ResponseFactoryIsCancelled(factory, &is_cancelled));
            if (is_cancelled || fails(send_value(factory, value))) break;
        }
        fails(TRITONBACKEND_ResponseFactorySendFlags(factory, TRITONSERVER_RESPONSE_COMPLETE_FINAL));
        fails(TRITONBACKEND_ResponseFactoryDelete(factory));
    }
    return NULL;
}
