-- How Argo CD reads a TritonModel. Waves of a sync go on once it is Healthy: every replica serves it, or its server has none
-- because none are asked for.
local health = { status = "Progressing", message = "the operator has not looked at it yet" }

local status = obj.status
if status == nil or status.conditions == nil then
  return health
end
if status.observedGeneration ~= obj.metadata.generation then
  health.message = "the operator has not seen its newest spec yet"
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end

local function is_true(type)
  return conditions[type] ~= nil and conditions[type].status == "True"
end

local ready = conditions.Ready
if ready == nil then
  return health
end
health.message = ready.reason .. ": " .. (ready.message or "")
if is_true("Ready") or ready.reason == "ScaledToZero" then
  health.status = "Healthy"
elseif is_true("Stalled") then
  health.status = "Degraded"
elseif ready.reason ~= "ServerNotFound" and not is_true("Reconciling") then
  health.status = "Degraded" -- neither as asked for nor on the way there: such as a model for which there is no room
end
return health
