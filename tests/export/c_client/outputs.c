/* All outputs of a signature of an exported SavedModel, through TensorFlow's C API: no Python, no aillm_tf.
 *
 *   outputs EXPORT INPUT[,INPUT...] NAME=TENSOR... -- LIBRARY... -- TEXT...
 *
 * INPUT and TENSOR are tensors of the signature ("StatefulPartitionedCall_1:0"); LIBRARY are tensorflow-text's .so
 * files. With several inputs, the texts of each follow one after the other: all of the first, then all of the second.
 * Prints one JSON object, {"NAME": [[...], ...]}: strings, float32 and int32 of one or two dimensions.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

enum { MOST = 16 };

static void check(const TF_Status* status, const char* doing) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", doing, TF_Message(status));
  exit(1);
}

static TF_Output find(TF_Graph* graph, const char* tensor) {
  char name[512];
  const char* colon = strrchr(tensor, ':');
  size_t length = colon ? (size_t)(colon - tensor) : strlen(tensor);
  if (length >= sizeof name) exit(2);
  memcpy(name, tensor, length);
  name[length] = 0;
  TF_Output output = {TF_GraphOperationByName(graph, name), colon ? atoi(colon + 1) : 0};
  if (!output.oper) {
    fprintf(stderr, "the graph has no operation %s\n", name);
    exit(1);
  }
  return output;
}

static void print_string(const TF_TString* text) {
  const char* data = TF_StringGetDataPointer(text);
  putchar('"');
  for (size_t i = 0; i < TF_StringGetSize(text); i++) {
    const unsigned char byte = (unsigned char)data[i];
    if (byte == '"' || byte == '\\') {
      printf("\\%c", byte);
    } else if (byte < 0x20) {
      printf("\\u%04x", byte);
    } else {
      putchar(byte);
    }
  }
  putchar('"');
}

static void print_value(const TF_Tensor* tensor, int64_t i) {
  const void* data = TF_TensorData(tensor);
  switch (TF_TensorType(tensor)) {
    case TF_STRING: print_string((const TF_TString*)data + i); break;
    case TF_FLOAT: printf("%.9g", ((const float*)data)[i]); break;
    case TF_INT32: printf("%d", ((const int*)data)[i]); break;
    default: fprintf(stderr, "an output is neither string, float32 nor int32\n"); exit(1);
  }
}

static void print_tensor(const TF_Tensor* tensor) {
  const int flat = TF_NumDims(tensor) == 1;
  const int64_t rows = TF_Dim(tensor, 0), columns = flat ? 1 : TF_Dim(tensor, 1);
  putchar('[');
  for (int64_t row = 0; row < rows; row++) {
    if (row) printf(", ");
    if (!flat) putchar('[');
    for (int64_t column = 0; column < columns; column++) {
      if (column) printf(", ");
      print_value(tensor, row * columns + column);
    }
    if (!flat) putchar(']');
  }
  putchar(']');
}

int main(int argc, char** argv) {
  int libraries = 3, first;
  while (libraries < argc && strcmp(argv[libraries], "--")) libraries++;
  for (first = libraries + 1; first < argc && strcmp(argv[first], "--");) first++;
  int inputs = 1;
  for (const char* c = argc > 2 ? argv[2] : ""; *c; c++) inputs += *c == ',';
  const int count = libraries - 3, rows = (argc - first - 1) / inputs;
  if (rows < 1 || count < 1 || count > MOST || inputs > MOST || rows * inputs != argc - first - 1) {
    fprintf(stderr, "outputs EXPORT INPUT[,INPUT...] NAME=TENSOR... -- LIBRARY... -- TEXT...\n");
    return 2;
  }
  TF_Status* status = TF_NewStatus();
  for (int i = libraries + 1; i < first; i++) {
    TF_LoadLibrary(argv[i], status);
    check(status, argv[i]);
  }
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status, argv[1]);

  const int64_t shape[] = {rows};
  TF_Output asked[MOST], outputs[MOST];
  TF_Tensor *given[MOST], *got[MOST];
  const char* name = strtok(argv[2], ",");
  for (int i = 0; i < inputs; i++, name = strtok(NULL, ",")) {
    asked[i] = find(graph, name);
    given[i] = TF_AllocateTensor(TF_STRING, shape, 1, (size_t)rows * sizeof(TF_TString));
    TF_TString* texts = TF_TensorData(given[i]);
    for (int row = 0; row < rows; row++) {
      const char* text = argv[first + 1 + i * rows + row];
      TF_StringInit(&texts[row]);
      TF_StringCopy(&texts[row], text, strlen(text));
    }
  }
  for (int i = 0; i < count; i++) outputs[i] = find(graph, strchr(argv[3 + i], '=') + 1);
  TF_SessionRun(session, NULL, asked, given, inputs, outputs, got, count, NULL, 0, NULL, status);
  check(status, "run");
  putchar('{');
  for (int i = 0; i < count; i++) {
    printf("%s\"%.*s\": ", i ? ", " : "", (int)(strchr(argv[3 + i], '=') - argv[3 + i]), argv[3 + i]);
    print_tensor(got[i]);
    TF_DeleteTensor(got[i]);
  }
  printf("}\n");
  for (int i = 0; i < inputs; i++) TF_DeleteTensor(given[i]);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
