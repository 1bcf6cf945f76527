// float32 tanh and erf with the same bits on every CPU: compfast/streams/fixedcurves.py, line by
// line. Only + - * / in the written order; the build forbids contraction. Loops over them
// vectorise.
#pragma once

namespace compfast {

static inline float fixed_tanh(float x) {
  x = x < -9.0f ? -9.0f : x;
  x = x > 9.0f ? 9.0f : x;
  const float z = x * x;
  float p = 1.8254494431215704e-11f;
  p = p * z + -1.2780111776225948e-08f;
  p = p * z + 9.267300168696676e-06f;
  p = p * z + 0.00292074772621444f;
  p = p * z + 0.12919214978997484f;
  p = p * z + 0.9999999411179719f;
  float q = 0.0002280983022577319f;
  q = q * z + 0.023763109884840993f;
  q = q * z + 0.46252498809099296f;
  q = q * z + 1.0f;
  return x * (p / q);
}

static inline float fixed_erf(float x) {
  x = x < -3.9f ? -3.9f : x;
  x = x > 3.9f ? 3.9f : x;
  const float z = x * x;
  float p = 2.0664770136179825e-06f;
  p = p * z + 0.00028506250394805325f;
  p = p * z + 0.003738346545640096f;
  p = p * z + 0.05266808292432531f;
  p = p * z + 0.18966679711999673f;
  p = p * z + 1.128379147624262f;
  float q = 3.8270076317466674e-05f;
  q = q * z + 0.0011573768806060782f;
  q = q * z + 0.014914276925549181f;
  q = q * z + 0.11381895051975822f;
  q = q * z + 0.5014206040380134f;
  q = q * z + 1.0f;
  return x * (p / q);
}

}  // namespace compfast
