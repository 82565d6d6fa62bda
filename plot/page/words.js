// 页面上的词：[英文, 中文]；{} 处依次填入
const WORDS = {
  runs: ["Methods and networks", "方法与网络"],
  classes: ["Classes", "类别"],
  table: ["Table of classes", "各类别的表"],
  table_note: ["Click a heading to sort, a row to see its pictures.", "点表头排序，点一行看该类的图像。"],
  outside_note: [" Bold red: further than {} from the published figure.", "红色粗体：与发表值相差超过 {}。"],
  method: ["Method", "方法"],
  network: ["Network", "网络"],
  weights: ["Weights", "权重"],
  data: ["Data", "数据"],
  date: ["Date", "日期"],
  device: ["Device", "设备"],
  command: ["Command", "命令"],
  model: ["Model", "模型"],
  predictions: ["New pictures", "新图像"],
  reproduced: ["Published table reproduced", "复现了发表的表"],
  not_reproduced: ["Published table not reproduced", "没有复现发表的表"],
  no_verdict: ["No verdict on the published table", "对发表的表不作结论"],
  incomplete: ["The run is not complete yet", "运行还没有完成"],
  colon: [": ", "："],
  all_classes: ["All classes", "全部类别"],
  class: ["Class", "类别"],
  image_rocauc: ["Image ROC AUC", "图像级 ROC AUC"],
  pixel_rocauc: ["Pixel ROC AUC", "像素级 ROC AUC"],
  image_rocauc_interval: ["95 % interval", "95 % 区间"],
  pixel_rocauc_interval: ["95 % interval", "95 % 区间"],
  published_image: ["published", "已发表"],
  published_pixel: ["published", "已发表"],
  difference_image: ["difference", "差"],
  difference_pixel: ["difference", "差"],
  pixel_aupro: ["Pixel AUPRO", "像素级 AUPRO"],
  pixel_aupro_05: ["AUPRO, FPR ≤ 0.05", "AUPRO，假阳性率 ≤ 0.05"],
  pixel_aupimo: ["Pixel AUPIMO", "像素级 AUPIMO"],
  image_ap: ["Image AP", "图像级 AP"],
  image_f1: ["Image best F1", "图像级最佳 F1"],
  pixel_ap: ["Pixel AP", "像素级 AP"],
  pixel_f1: ["Pixel best F1", "像素级最佳 F1"],
  n_train: ["Training pictures", "训练图像"],
  n_test: ["Test pictures", "测试图像"],
  seconds: ["Seconds", "秒"],
  textures: ["Mean of textures", "纹理类平均"],
  objects: ["Mean of objects", "物体类平均"],
  all: ["Mean of all", "总平均"],
  threshold: ["Image threshold", "图像阈值"],
  stored: ["Back to {}", "恢复为 {}"],
  no_threshold: ["none is stored; move the slider", "没有存下的阈值；请移动滑块"],
  score_axis: ["image score", "图像得分"],
  logarithmic_axis: ["image score, logarithmic", "图像得分，对数坐标"],
  tallest: ["tallest bar: {}", "最高一柱：{}"],
  drift_low: ["lowest twentieth of the good scores", "好图得分最低的二十分之一"],
  drift_high: ["highest twentieth", "最高的二十分之一"],
  drift_note: [
    "Each bar: the share of the new pictures that score within one twentieth of the good pictures' scores. Grey: usual.",
    "每根柱：得分落在好图得分某二十分之一之内的新图像所占的比例。灰色：通常的范围。",
  ],
  outcomes: ["Show only these outcomes", "只看这些结果"],
  found: ["found", "检出"],
  missed: ["missed", "漏检"],
  alarm: ["false alarm", "误报"],
  passed: ["passed", "通过"],
  defect: ["defect", "缺陷"],
  good: ["good", "正常"],
  undecided: ["no decision", "未判定"],
  precision: ["Precision", "精确率"],
  recall: ["Recall", "召回率"],
  sort: ["Sort by", "排序"],
  by_score: ["score", "得分"],
  by_name: ["name", "文件名"],
  by_distance: ["distance from the threshold", "与阈值的距离"],
  label: ["Label", "标签"],
  kind: ["Kind", "种类"],
  any: ["all", "全部"],
  normal: ["normal", "正常"],
  defective: ["defective", "缺陷"],
  shown: ["{} of {} pictures", "{} / {} 张图像"],
  score: ["score {}", "得分 {}"],
  p_value: ["p = {}", "p = {}"],
  decision: ["decision: {}", "判定：{}"],
  labelled: ["label: {}", "标签：{}"],
  panels: [
    "Image, ground truth, heat map, predicted mask, segmentation",
    "图像、真值、热图、预测掩码、分割结果",
  ],
  no_figure: ["No figure was drawn for this picture.", "这张图像没有画定位图。"],
  close: ["Close", "关闭"],
  before: ["Previous", "上一张"],
  after: ["Next", "下一张"],
  other_language: ["中文", "English"],
};

// 程序自己的句子（复现结论、阈值的来历）译成中文；认不得的原样显示
const SENTENCES = [
  [/the weights are not ImageNet's/, "权重不是 ImageNet 的"],
  [/the published figures are of a network with other weights/, "发表的数字出自权重不同的网络"],
  [/nothing is published for (.*)/, "$1 没有发表的数字"],
  [/other options than the published: /, "选项与发表的不同："],
  [/(\d+) of (\d+) classes missing/, "$2 类中缺 $1 类"],
  [/(\d+) of (\d+) classes without image or pixel ROC AUC/, "$2 类中有 $1 类没有图像级或像素级 ROC AUC"],
  [/(\d+) of (\d+) classes differ by more than ([\d.]+)/, "$2 类中有 $1 类相差超过 $3"],
  [/image and pixel ROC AUC of all (\d+) classes are within ([\d.]+)/,
    "全部 $1 类的图像级与像素级 ROC AUC 相差都在 $2 之内"],
  [/that (\S+) alone differs has been reported before \(issue 6 of the public script, (\d+)\)/,
    "唯独 $1 不同，此前已有人报告（公开脚本的第 6 号 issue，$2 年）"],
  [/\bimage ([+-])/g, "图像级 $1"],
  [/\bpixel ([+-])/g, "像素级 $1"],
  [/best F1 on the labelled test set/, "带标签的测试集上 F1 最佳"],
  [/([\d.]+)th percentile of (\d+) left-out training scores/, "$2 个训练图像留一得分的第 $1 百分位"],
  [/([\d.]+)th percentile of (\d+) training scores, left out by folders, (\d+) groups/,
    "$2 个训练图像按文件夹（$3 组）留出所得分数的第 $1 百分位"],
  [/([\d.]+)th percentile of (\d+) training scores, left out by blocks of (\d+), (\d+) groups/,
    "$2 个训练图像每 $3 张一组（$4 组）留出所得分数的第 $1 百分位"],
  [/([\d.]+)th percentile of (\d+) validation scores/, "$2 个验证图像得分的第 $1 百分位"],
  [/of (\d+) pictures (\d+ %) lie above the median of the good pictures' scores and (\d+ %) above their 95th percentile/,
    "$1 张图像中，$2 高于好图得分的中位数，$3 高于其第 95 百分位"],
  [/(\d+ ± \d+ %) and (\d+ ± \d+ %) would be usual/, "通常应为 $1 与 $2"],
  [/^given$/, "使用者给定"],
  [/^none: give (\S+)$/, "没有：用 $1 给出"],
  [/; /g, "；"],
  [/: /g, "："],
];

let language = 0; // WORDS 里的下标

/** The words of a key in the language shown. */
function say(key, ...values) {
  return WORDS[key][language].replace(/\{\}/g, () => values.shift());
}

/** A sentence of the program in the language shown. */
function translated(sentence, table = SENTENCES) {
  return language ? table.reduce((text, [english, chinese]) => text.replace(english, chinese), sentence) : sentence;
}

/** A score, or what is computed like one. */
function short(number, digits = 5) {
  return number === null ? "–" : String(Number(number.toPrecision(digits)));
}

/** An element; strings among its children are text, whatever is in them. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A path as a relative address; a byte that is no UTF-8, which Python reads as a lone surrogate, as itself. */
function address(path) {
  const byte = (c) => `%${(c.charCodeAt(0) & 0xff).toString(16)}`;
  const letter = (c) => (/^[\udc80-\udcff]$/.test(c) ? byte(c) : encodeURIComponent(c));
  return Array.from(path, (c) => (c === "/" ? c : letter(c))).join("");
}
