package scalers

// In KEDA's package this stands beside another scaler.
const externalMetricType = "External"
