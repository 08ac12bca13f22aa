-- How Argo CD reads a TritonServer. Waves of a sync go on once it is Healthy: its pods are those asked for, and ready.
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
if is_true("Ready") then
  health.status = "Healthy"
elseif is_true("Stalled") then
  health.status = "Degraded"
elseif not is_true("Reconciling") then
  health.status = "Degraded" -- neither as asked for nor on the way there
end
return health
