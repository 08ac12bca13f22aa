/* An agent that writes down what it hears, and does what parameters say: `calls` names the file, `refuse` refuses a load, and `rows` has
   the model loaded from a folder of the agent's own, with that `max_batch_size`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "triton/core/tritonrepoagent.h"

#define TRY(call)                            \
    do {                                     \
        TRITONSERVER_Error* failed = (call); \
        if (failed != NULL) return failed;   \
    } while (0)

typedef struct {
    char calls[1024];
    char rows[16];
    int refuses;
    const char* acquired;
} State;

static void note(const State* state, const char* what) {
    FILE* file = state->calls[0] == '\0' ? NULL : fopen(state->calls, "a");
    if (file == NULL) return;
    fprintf(file, "%s\n", what);
    fclose(file);
}

static TRITONSERVER_Error* write_file(const char* folder, const char* name, const char* text) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE* file = fopen(path, "w");
    if (file == NULL) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "cannot write");
    fputs(text, file);
    fclose(file);
    return NULL;
}

TRITONSERVER_Error* TRITONREPOAGENT_Initialize(TRITONREPOAGENT_Agent* agent) {
    uint32_t major, minor;
    TRY(TRITONREPOAGENT_ApiVersion(&major, &minor));
    return TRITONREPOAGENT_SetState(agent, strdup("agent"));
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelInitialize(TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model) {
    State* state = calloc(1, sizeof *state);
    TRY(TRITONREPOAGENT_ModelSetState(model, state));
    uint32_t count;
    TRY(TRITONREPOAGENT_ModelParameterCount(agent, model, &count));
    for (uint32_t index = 0; index < count; ++index) {
        const char *name, *value;
        TRY(TRITONREPOAGENT_ModelParameter(agent, model, index, &name, &value));
        if (strcmp(name, "calls") == 0) snprintf(state->calls, sizeof state->calls, "%s", value);
        if (strcmp(name, "rows") == 0) snprintf(state->rows, sizeof state->rows, "%s", value);
        if (strcmp(name, "refuse") == 0) state->refuses = 1;
    }
    note(state, "initialize");
    return NULL;
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelFinalize(TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model) {
    void* held;
    TRY(TRITONREPOAGENT_ModelState(model, &held));
    State* state = held;
    note(state, "finalize");
    if (state->acquired != NULL) TRY(TRITONREPOAGENT_ModelRepositoryLocationRelease(agent, model, state->acquired));
    free(state);
    return NULL;
}

static TRITONSERVER_Error* move_model(TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model, State* state) {
    TRY(TRITONREPOAGENT_ModelRepositoryLocationAcquire(agent, model, TRITONREPOAGENT_ARTIFACT_FILESYSTEM, &state->acquired));
    char text[1024], folder[4096];
    snprintf(text, sizeof text,
        "backend: 'identity'\nmax_batch_size: %s\ninput { name: 'INPUT0' data_type: TYPE_INT32 dims: [1] }\n"
        "output { name: 'OUTPUT0' data_type: TYPE_INT32 dims: [1] }\n", state->rows);
    TRY(write_file(state->acquired, "config.pbtxt", text));
    snprintf(folder, sizeof folder, "%s/1", state->acquired);
    mkdir(folder, 0700);
    return TRITONREPOAGENT_ModelRepositoryUpdate(agent, model, TRITONREPOAGENT_ARTIFACT_FILESYSTEM, state->acquired);
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelAction(
    TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model, const TRITONREPOAGENT_ActionType action) {
    static const char* const names[] = {"load", "load complete", "load fail", "unload", "unload complete"};
    void* held;
    TRY(TRITONREPOAGENT_ModelState(model, &held));
    State* state = held;
    note(state, names[action]);
    if (action != TRITONREPOAGENT_ACTION_LOAD) {
        TRITONSERVER_Error* late = TRITONREPOAGENT_ModelRepositoryUpdate(agent, model, TRITONREPOAGENT_ARTIFACT_FILESYSTEM, "/tmp");
        if (late == NULL) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "the location was changed too late");
        TRITONSERVER_ErrorDelete(late);
        return NULL;
    }
    if (state->refuses) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, "the agent was told to refuse");
    TRITONREPOAGENT_ArtifactType type;
    const char* location;
    TRY(TRITONREPOAGENT_ModelRepositoryLocation(agent, model, &type, &location));
    struct stat found;
    if (stat(location, &found) != 0) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "the folder is not there");
    return state->rows[0] == '\0' ? NULL : move_model(agent, model, state);
}
